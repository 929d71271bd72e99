"""`edgeport devices` through run() and through the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeport.cli import devices as command
from edgeport.devices.catalog import HOST, load_profile, names, save_profile
from edgeport.devices.profile import KINDS, KernelRates
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


def test_the_list_is_grouped_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line in KINDS]
    assert headings == list(KINDS)
    board, phone = lines.index("board"), lines.index("phone")
    assert any(line.startswith("raspberry-pi-5-8gb ") for line in lines[board:phone])
    assert any(line.startswith("iphone-15-pro ") and "in RAM" in line for line in lines[phone:])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--kind", "multi-gpu"), {"multi-gpu", "4x-h100-80gb-sxm", "8x-h100-80gb-sxm"}),
        (("--tier", "multi-gpu"), {"multi-gpu"}),
        (("--find", "RASPBERRY 5", "--min-ram", "8GiB"), {"raspberry-pi-5-8gb", "raspberry-pi-5-16gb"}),
        (("--kind", "board", "--min-ram", "100GB"), {"jetson-agx-thor-128gb"}),
        (("--find", "radeon"), {"strix-halo-128gb"}),
    ],
)
def test_filters(words: tuple[str, ...], expected: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words, "--json") == 0
    assert {profile["name"] for profile in json.loads(capsys.readouterr().out)["profiles"]} == expected
    assert run(*words) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in expected)
    assert "parameters" not in text, "the tiers belong to the whole list"


def test_no_device_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--kind", "phone", "--tier", "cluster") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "none of " in printed.err
    assert run("--kind", "phone", "--tier", "cluster", "--json") == 1
    assert json.loads(capsys.readouterr().out)["profiles"] == []


def test_one_device_lists_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("raspberry-pi-5-8gb") == 0
    lines = capsys.readouterr().out.splitlines()
    (used,) = [line for line in lines if line.split()[:2] == ["qwen2.5-0.5b", "Q8_0"]]
    assert "19.87" in used
    assert "no, used to make a figure" in used
    assert "https://github.com/ggml-org/llama.cpp/issues/26484" in used
    (test,) = [line for line in lines if line.startswith("llama-3.2-3b ")]
    assert " 4.61 " in test
    assert " yes " in test
    assert not any(line.startswith("published ") and "{" in line for line in lines), "a raw dictionary"


def test_one_device_lists_measured_rates(user_devices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = KernelRates(
        "openvino", 8, 12_500_000_000, 3e-05, prefill_ops_per_s=10**11, source="measured here"
    )
    save_profile(dataclasses.replace(load_profile("edge"), kernels=(measured,)), "mine")
    assert run("mine") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("openvino ")]
    assert line.split()[:11] == ["openvino", "8", "12.5", "GB/s", "-", "30", "us", "0", "us", "0.1", "TOPS"]
    assert line.endswith("measured here")


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
    "words",
    [
        ("edge", "--save", "x"),
        ("detect", "--seconds", "0"),
        ("detect", "--seconds", "nan"),
        ("edge", "--kind", "board"),
        ("detect", "--find", "pi"),
        ("--min-ram", "much"),
    ],
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
