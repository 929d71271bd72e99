"""Profile files: every shipped one reads, every kind of mistake is named, writing and reading agree."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from edgeport.devices.catalog import HOST, SHIPPED, load_profile, names
from edgeport.devices.profile import ENGINE_FORMATS, Constraints, DeviceProfile, GpuPart
from edgeport.devices.profile_file import dump_profile, parse_profile, read_profile
from edgeport.devices.profile_keys import PROFILE_KEYS
from edgeport.errors import UsageError

SHIPPED_NAMES = [name for name in names() if name != HOST]
GOOD = (SHIPPED / "edge.toml").read_text()


def problems_of(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_profile(path)
    first, *lines = caught.value.message.splitlines()
    assert str(path) in first
    return [line.strip() for line in lines]


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_shipped_profile_is_sound(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.usable_ram_bytes <= profile.ram_bytes
    runnable = {ENGINE_FORMATS[engine] for engine in profile.engines}
    assert runnable & set(profile.formats), "the device can open nothing of what it exports"


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_shipped_profile_gives_its_sources(name: str) -> None:
    """Each block of figures stands under a link or is marked as an assumption."""
    text = (SHIPPED / f"{name}.toml").read_text()
    assert "https://" in text
    for line in text.splitlines():
        if line.startswith("usable_ram_gib"):
            assert "assumption" in line


def test_edge_is_the_tier_of_the_mission() -> None:
    edge = load_profile("edge")
    assert (edge.tier, edge.cores, edge.ram_bytes, edge.recipe) == ("edge", 4, 4 * 2**30, "int4")
    assert edge.formats == ("gguf", "onnx", "openvino", "safetensors")


def test_units_become_bytes() -> None:
    profile = load_profile("raspberry-pi-5-8gb")
    assert profile.ram_bytes == 8 * 2**30
    assert profile.memory_bandwidth_bytes_per_s == 17_100_000_000
    assert profile.last_level_cache_bytes == 2 * 2**20
    assert profile.int8_ops_per_s == 610_000_000_000


def test_unknown_keys_are_refused_with_the_nearest(tmp_path: Path) -> None:
    found = problems_of(GOOD.replace("ram_gib = 4", "ram_gb = 4", 1), tmp_path)
    assert "ram_gb: unknown key, did you mean 'ram_gib'?" in found
    assert "ram_gib: missing" in found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("cores = 4", 'cores = "four"')
        .replace("memory_bandwidth_gb_per_s = 12.8", "memory_bandwidth_gb_per_s = 0")
        .replace('"openvino"]', '"openvin"]')
        .replace("block = 32", "block = 33\ncolour = 1")
        .replace("usable_ram_gib = 3 ", "usable_ram_gib = -3 ")
    )
    found = problems_of(text, tmp_path)
    assert sorted(line.partition(":")[0] for line in found) == [
        "constraints.block",
        "constraints.colour",
        "cores",
        "engines",
        "memory_bandwidth_gb_per_s",
        "usable_ram_gib",
    ]
    assert "cores: expected a whole number, got text ('four')" in found
    assert any("did you mean 'openvino'?" in line for line in found)


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (("cores = 4", "cores = 4.0"), "cores: expected a whole number, got a number (4.0)"),
        (("cores = 4", "cores = true"), "cores: expected a whole number, got true/false (True)"),
        (("cores = 4", "cores = 0"), "cores: must be at least 1, got 0"),
        (("cores = 4", "cores = 4\nram_gib = nan"), ""),
        (("ram_gib = 4", "ram_gib = inf"), "ram_gib: must be greater than 0 and finite, got inf"),
        (("ram_gib = 4", "ram_gib = [4]"), "ram_gib: expected a number, got a list ([4])"),
        (('tier = "edge"', 'tier = "egde"'), "tier: unknown value 'egde', did you mean 'edge'?"),
        (("usable_ram_gib = 3", "usable_ram_gib = 5"), "usable_ram_gib: is more than ram_gib"),
        (
            ("symmetric_only = true", "symmetric_only = 1"),
            "constraints.symmetric_only: expected true or false",
        ),
        (("formats = [", 'formats = ["gguf", '), "formats: holds a value twice"),
        (("[constraints]", "constraints = 1\n[other]"), "constraints: expected a table [constraints]"),
        (('recipe = "int4"', 'recipe = ""'), "recipe: must not be empty"),
    ],
)
def test_mistakes(replacement: tuple[str, str], expected: str, tmp_path: Path) -> None:
    text = GOOD.replace(*replacement, 1)
    assert text != GOOD
    if not expected:  # a key twice is TOML's own error
        path = tmp_path / "twice.toml"
        path.write_text(text)
        with pytest.raises(UsageError, match="is not TOML"):
            read_profile(path)
        return
    assert any(line.startswith(expected) for line in problems_of(text, tmp_path))


def test_every_required_key_is_missed(tmp_path: Path) -> None:
    required = {name for name, key in PROFILE_KEYS.items() if key.required}
    assert {line.removesuffix(": missing") for line in problems_of("", tmp_path)} == required


@pytest.mark.parametrize("content", [b"ram_gib = ", b"\xff\xfe", b"= 3"])
def test_files_that_are_not_toml(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=str(path)):
        read_profile(path)


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_written_profile_reads_back_the_same(name: str) -> None:
    profile = load_profile(name)
    assert parse_profile(tomllib.loads(dump_profile(profile)), name=name, source="text") == profile


def test_odd_values_survive_writing() -> None:
    profile = DeviceProfile(
        name="odd",
        kind="board",
        tier="edge",
        description='quotes " and \\ and \n breaks, größe',
        ram_bytes=25276510208,
        usable_ram_bytes=1234567891,
        memory_bandwidth_bytes_per_s=29696259203,
        cores=3,
        engines=("llama.cpp",),
        formats=("gguf",),
        recipe="int8",
        context_length=777,
        power_watts=7.25,
        gpu=GpuPart("g", 2, 8 * 2**30 + 1, 68_000_000_001),
        constraints=Constraints(positive_scales=True, block=128),
    )
    assert parse_profile(tomllib.loads(dump_profile(profile)), name="odd", source="text") == profile


def test_keys_and_fields_match() -> None:
    """A field without a key could not be set; a key without a field would crash."""
    fields = {field.name for field in dataclasses.fields(DeviceProfile)} - {"name", "gpu", "constraints", "kernels", "published"}
    assert {key.field for key in PROFILE_KEYS.values()} == fields
