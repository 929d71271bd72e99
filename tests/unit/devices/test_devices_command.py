"""`edgeport devices` through run() and through the command line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeport.cli import devices as command
from edgeport.devices.catalog import HOST, load_profile, names
from edgeport.errors import UsageError


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_list_names_every_profile_and_tier(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    text = capsys.readouterr().out
    for name in (*names(), "workstation", "cluster"):
        assert name in text


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {profile["name"] for profile in document["profiles"]} == set(names()) - {HOST}
    assert [tier["name"] for tier in document["tiers"]][0] == "edge"


def test_one_profile_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("workstation-gpu") == 0
    text = capsys.readouterr().out
    for word in (
        "usable_ram_bytes",
        "56 GiB",
        "gpu.name",
        "GeForce RTX 4090",
        "1008 GB/s",
        "constraints.block",
        ".toml",
    ):
        assert word in text


def test_one_profile_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("edge", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ram_bytes"] == 4 * 2**30


def test_detect_saves_a_profile_that_loads(user_devices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("detect", "--seconds", "0.1", "--save", "this-box") == 0
    assert str(user_devices / "this-box.toml") in capsys.readouterr().out
    assert load_profile("this-box").memory_bandwidth_bytes_per_s > 10**9
    with pytest.raises(UsageError, match="exists already"):
        run("detect", "--seconds", "0.1", "--save", "this-box")
    assert run("detect", "--seconds", "0.1", "--save", "this-box", "--force") == 0


def test_detect_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("detect", "--seconds", "0.1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["profile"]["name"] == HOST
    assert document["bandwidth"]["points"][0]["threads"] == 1
    assert document["saved"] is None


@pytest.mark.parametrize(
    "words", [("edge", "--save", "x"), ("detect", "--seconds", "0"), ("detect", "--seconds", "nan")]
)
def test_bad_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        run(*words)


def test_a_broken_user_file_is_named(user_devices: Path) -> None:
    user_devices.mkdir()
    (user_devices / "mine.toml").write_text("ram_gib = 'lots'")
    with pytest.raises(UsageError, match=r"mine\.toml: \d+ problems"):
        run()


def test_through_the_dispatcher() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeport", "devices", "nope"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no device called 'nope'" in done.stderr
