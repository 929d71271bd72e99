"""Every shipped device: sources, sane figures, known engines and models. The checker of sources is checked too."""

from __future__ import annotations

import re
import tomllib

import pytest

from edgeport.devices.catalog import HOST, SHIPPED, load_profile, names
from edgeport.devices.known_models import known_names
from edgeport.devices.profile import ENGINE_FORMATS, KINDS
from edgeport.devices.profile_file import dump_profile, parse_profile

SHIPPED_NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))
FAMILIES = (
    "raspberry-pi-4", "raspberry-pi-5", "orange-pi-5", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin",
    "jetson-agx-thor", "intel-n100", "snapdragon-8-gen-2", "snapdragon-8-gen-3", "snapdragon-8-elite", "iphone-14",
    "iphone-15", "iphone-16", "core-ultra-7-258v", "core-ultra-7-155h", "ryzen-ai-9-hx-370", "snapdragon-x-elite",
    "macbook-m1", "macbook-m2", "macbook-m3", "macbook-m4", "strix-halo", "xeon-8480", "xeon-6980p", "cpu-server",
    "graviton3", "graviton4", "aws-c7i", "aws-c7g", "rtx-3060", "rtx-3090", "rtx-4070", "rtx-4090", "rtx-a6000", "l4",
    "l40s", "t4", "a100-40gb", "a100-80gb", "h100-80gb-pcie", "h100-80gb-sxm", "h200", "dgx-spark", "multi-gpu",
    "4x-h100", "8x-h100",
)  # fmt: skip
CHOICES = frozenset({"context_length", "block", "count", "bits"})
"""Numbers that are decided, not found out."""
_NUMBER = re.compile(r"^(\w+)\s*=\s*[-+]?\d")


def unsourced_figures(text: str) -> list[str]:
    """`line: key` for each figure with neither a link nor the word assumption on its line or above it in its block.

    A block is what lies between two empty lines. The link of a `source` key counts for the whole of its block.
    """
    found = []
    start = 1
    for block in text.split("\n\n"):
        lines = block.split("\n")
        if not any(line.startswith("source") and "https://" in line for line in lines):
            found += _unsourced(lines, start)
        start += len(lines) + 1
    return found


def _unsourced(lines: list[str], start: int) -> list[str]:
    found = []
    has_link = False
    for number, line in enumerate(lines, start):
        comment = line.partition("#")[2]
        own = "http" in comment or "assumption" in comment
        # An assumption holds for its own line, or on a line of comment for what follows; a link for the rest of the block.
        has_link = has_link or "http" in comment or (own and line.startswith("#"))
        key = _NUMBER.match(line)
        if key and key[1] not in CHOICES and not (own or has_link):
            found.append(f"{number}: {key[1]}")
    return found


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_every_figure_has_a_source(name: str) -> None:
    assert unsourced_figures((SHIPPED / f"{name}.toml").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_shipped_device_is_sound(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.usable_ram_bytes <= profile.ram_bytes
    sustained = profile.sustained_bandwidth_bytes_per_s
    assert sustained is None or sustained <= profile.memory_bandwidth_bytes_per_s
    assert profile.engines
    assert set(profile.engines) <= set(ENGINE_FORMATS)
    runnable = {ENGINE_FORMATS[engine] for engine in profile.engines}
    assert runnable & set(profile.formats), "the device can open nothing of what is exported for it"
    assert profile.kind in KINDS
    assert (profile.gpu is not None and profile.gpu.count > 1) == (profile.kind == "multi-gpu")
    if profile.gpu is not None and profile.gpu.shares_ram:
        assert profile.gpu.memory_bandwidth_bytes_per_s == profile.memory_bandwidth_bytes_per_s
        assert profile.available_bytes(on_gpu=True) <= profile.usable_ram_bytes


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_shipped_device_survives_writing(name: str) -> None:
    profile = load_profile(name)
    assert parse_profile(tomllib.loads(dump_profile(profile)), name=name, source="text") == profile


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_published_speeds_are_plausible(name: str) -> None:
    """A link each; none twice; an engine the device has; a GPU only where there is one."""
    profile = load_profile(name)
    keys = [
        (
            speed.model,
            speed.engine,
            speed.scheme,
            speed.on_gpu,
            speed.source,
            speed.decode_tokens_per_s is None,
        )
        for speed in profile.published
    ]
    assert len(keys) == len(set(keys))
    for speed in profile.published:
        assert speed.source.startswith("https://")
        assert speed.engine in profile.engines
        assert not speed.on_gpu or profile.runs_on_gpu(speed.engine)


def test_the_catalogue_is_as_wide_as_promised() -> None:
    assert len(SHIPPED_NAMES) >= 48
    assert [family for family in FAMILIES if not any(name.startswith(family) for name in SHIPPED_NAMES)] == []
    assert {load_profile(name).kind for name in SHIPPED_NAMES} == set(KINDS)
    assert set(SHIPPED_NAMES) == set(names()) - {HOST}


def test_enough_published_speeds_test_predictions() -> None:
    speeds = [speed for name in SHIPPED_NAMES for speed in load_profile(name).published]
    assert len(speeds) >= 45
    assert sum(not speed.used for speed in speeds) >= 40


def test_speeds_a_bandwidth_was_derived_from_are_marked() -> None:
    """Decode speeds from the page that a sustained bandwidth is taken from test no prediction."""
    for name in SHIPPED_NAMES:
        profile = load_profile(name)
        if profile.sustained_bandwidth_bytes_per_s is None:
            continue
        text = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")
        above = text.partition("sustained_bandwidth_gb_per_s")[0].splitlines()[-2:]
        derived = [speed for speed in profile.published if any(speed.source in line for line in above)]
        assert all(speed.used for speed in derived)


def test_published_models_are_known() -> None:
    named = {speed.model for name in SHIPPED_NAMES for speed in load_profile(name).published}
    assert sorted(named - set(known_names())) == []


def test_edge_is_the_tier_of_the_mission() -> None:
    edge = load_profile("edge")
    assert (edge.kind, edge.tier, edge.cores, edge.ram_bytes, edge.recipe) == (
        "board",
        "edge",
        4,
        4 * 2**30,
        "int4",
    )
    assert edge.formats == ("gguf", "onnx", "openvino", "safetensors")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ram_gib = 4\n", ["1: ram_gib"]),
        ("# https://example.org\nram_gib = 4\n", []),
        ("ram_gib = 4   # https://example.org\nusable_ram_gib = 3\n", []),
        ("ram_gib = 4   # assumption: a guess\nusable_ram_gib = 3\n", ["2: usable_ram_gib"]),
        ("# assumption: all of it\nram_gib = 4\nusable_ram_gib = 3\n", []),
        ("# https://example.org\nram_gib = 4\n\nint8_tops = 3   # 4 cores x 2 GHz\n", ["4: int8_tops"]),
        ("ram_gib = 4\n# https://example.org\nusable_ram_gib = 3\n", ["1: ram_gib"]),
        ('[[published]]\ndecode_tokens_per_s = 3\nsource = "https://example.org"\n', []),
        ('[[published]]\ndecode_tokens_per_s = 3\nsource = "my desk"\n', ["2: decode_tokens_per_s"]),
        ('context_length = 4096\nrecipe = "int4"\n', []),
    ],
)
def test_the_checker_of_sources_says_no(text: str, expected: list[str]) -> None:
    assert unsourced_figures(text) == expected
