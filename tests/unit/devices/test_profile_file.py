"""Profile files: every kind of mistake is named, all of them at once; writing and reading agree."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from edgeport.devices.catalog import SHIPPED, load_profile
from edgeport.devices.profile import Constraints, DeviceProfile, GpuPart, KernelRates, PublishedSpeed
from edgeport.devices.profile_file import dump_profile, parse_profile, read_profile
from edgeport.devices.profile_keys import (
    CONSTRAINT_KEYS,
    GPU_KEYS,
    KERNEL_KEYS,
    PROFILE_KEYS,
    PUBLISHED_KEYS,
    Key,
)
from edgeport.errors import UsageError

GOOD = (SHIPPED / "edge.toml").read_text()
TABLES = """
[[kernels]]
engine = "llama.cpp"
bits = 4
decode_bandwidth_gb_per_s = 10.5
seconds_per_layer = 2.1e-05
prefill_tops = 0.2
source = "edgeport devices detect"

[[published]]
model = "llama-3.2-3b"
engine = "llama.cpp"
scheme = "Q4_K_M"
decode_tokens_per_s = 4.88
used = true
source = "https://github.com/geerlingguy/ai-benchmarks/issues/7"
"""
SHARED_GPU = """
[gpu]
name = "g"
count = 1
memory_gib = 4
memory_bandwidth_gb_per_s = 12.8
shares_ram = true
usable_share = 0.5
"""


def problems_of(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_profile(path)
    first, *lines = caught.value.message.splitlines()
    assert str(path) in first
    return [line.strip() for line in lines]


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
        gpu=GpuPart("g", 1, 8 * 2**30 + 1, 68_000_000_001, shares_ram=True, usable_share=2 / 3),
        constraints=Constraints(positive_scales=True, block=128),
        kernels=(
            KernelRates(
                "llama.cpp", 4, 9_876_543_211, 2.1e-05, 1 / 3, prefill_ops_per_s=123_456_789_012,
                cache_bandwidth_bytes_per_s=7_654_321_099, attention_ops_per_s=98_765_432_101, source='a "quoted" source',
            ),
            KernelRates("openvino", 16, 1),
        ),
        published=(
            PublishedSpeed("m", "vllm", "W4A16", "s", decode_tokens_per_s=1 / 3, on_gpu=True, note="größe"),
            PublishedSpeed("m", "reference", "F32", "s", prefill_tokens_per_s=1e-3, used=True),
        ),
    )  # fmt: skip
    assert parse_profile(tomllib.loads(dump_profile(profile)), name="odd", source="text") == profile


@pytest.mark.parametrize(
    ("part", "keys", "elsewhere"),
    [
        (DeviceProfile, PROFILE_KEYS, {"name", "gpu", "constraints", "kernels", "published"}),
        (GpuPart, GPU_KEYS, set()),
        (Constraints, CONSTRAINT_KEYS, set()),
        (KernelRates, KERNEL_KEYS, set()),
        (PublishedSpeed, PUBLISHED_KEYS, set()),
    ],
)
def test_keys_and_fields_match(part: type, keys: dict[str, Key], elsewhere: set[str]) -> None:
    """A field without a key could not be set; a key without a field would crash; an optional key needs a default."""
    fields = {field.name: field for field in dataclasses.fields(part)}
    assert {key.field for key in keys.values()} == set(fields) - elsewhere
    assert all(key.required or fields[key.field].default is not dataclasses.MISSING for key in keys.values())


def test_kernel_rates_and_published_speeds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "full.toml"
    path.write_text(GOOD + TABLES)
    profile = read_profile(path)
    assert profile.kernels == (
        KernelRates(
            "llama.cpp", 4, 10_500_000_000, seconds_per_layer=2.1e-05, prefill_ops_per_s=200_000_000_000,
            source="edgeport devices detect",
        ),
    )  # fmt: skip
    (speed,) = profile.published
    assert (speed.model, speed.decode_tokens_per_s, speed.prefill_tokens_per_s) == (
        "llama-3.2-3b",
        4.88,
        None,
    )
    assert (speed.used, speed.on_gpu) == (True, False)


def test_a_gpu_may_share_ram(tmp_path: Path) -> None:
    path = tmp_path / "shared.toml"
    path.write_text(GOOD + SHARED_GPU)
    gpu = read_profile(path).gpu
    assert gpu is not None
    assert (gpu.shares_ram, gpu.usable_share) == (True, 0.5)


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        (("bits = 4", "bits = 5"), "kernels 1: bits: unknown value 5; allowed: 4, 8, 16"),
        (('engine = "llama.cpp"\nbits', 'engine = "lama.cpp"\nbits'), "kernels 1: engine: unknown value 'lama.cpp'"),
        (("seconds_per_layer", "second_per_layer"), "kernels 1: second_per_layer: unknown key, did you mean 'seconds_per_layer'?"),
        (("seconds_per_layer = 2.1e-05", "seconds_per_layer = -1"), "kernels 1: seconds_per_layer: must be from 0 to 1"),
        (("decode_bandwidth_gb_per_s = 10.5\n", ""), "kernels 1: decode_bandwidth_gb_per_s: missing"),
        (("[[kernels]]", "[kernels]"), "kernels: expected tables [[kernels]], got a table"),
        (("[[kernels]]", "[[kernel]]"), "kernel: unknown key, did you mean 'kernels'?"),
        (("decode_tokens_per_s = 4.88\n", ""), "published 1: needs decode_tokens_per_s or prefill_tokens_per_s"),
        (("decode_tokens_per_s = 4.88", "decode_tokens_per_s = 0"), "published 1: decode_tokens_per_s: must be greater than 0"),
        (("used = true", "on_gpu = true"), "published 1: on_gpu: the file has no [gpu]"),
        (("used = true", 'used = "yes"'), "published 1: used: expected true or false, got text ('yes')"),
        (("model =", "modle ="), "published 1: modle: unknown key, did you mean 'model'?"),
        (("scheme =", "shceme ="), "published 1: scheme: missing"),
    ],
)  # fmt: skip
def test_mistakes_in_lists(replacement: tuple[str, str], expected: str, tmp_path: Path) -> None:
    text = TABLES.replace(*replacement, 1)
    assert text != TABLES
    assert any(line.startswith(expected) for line in problems_of(GOOD + text, tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SHARED_GPU.replace("memory_gib = 4", "memory_gib = 5"), "gpu.memory_gib: is more than ram_gib, which the GPU shares"),
        (SHARED_GPU.replace("count = 1", "count = 2"), "gpu.count: must be 1 for a GPU that shares RAM, got 2"),
        (SHARED_GPU.replace("= 0.5", "= 1.5"), "gpu.usable_share: must be greater than 0 and at most 1, got 1.5"),
        (SHARED_GPU.replace("= 0.5", "= 0"), "gpu.usable_share: must be greater than 0 and at most 1, got 0"),
        (SHARED_GPU.replace("shares_ram", "share_ram"), "gpu.share_ram: unknown key, did you mean 'shares_ram'?"),
        (TABLES + TABLES, "kernels 2: llama.cpp with 4 bits is in kernels 1 already"),
    ],
)  # fmt: skip
def test_values_that_exclude_each_other(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in problems_of(GOOD + text, tmp_path)


def test_instruction_sets_of_another_architecture(tmp_path: Path) -> None:
    text = GOOD.replace(
        "cores = 4", 'cores = 4\narchitecture = "x86_64"\nisa = ["avx2", "neon", "amx_int8", "sve"]'
    )
    assert problems_of(text, tmp_path) == ["isa: neon, sve: not of x86_64"]
    found = problems_of(text.replace('"sve"', '"avx512_vni"'), tmp_path)
    assert found == [
        line
        for line in found
        if line.startswith("isa: unknown value 'avx512_vni', did you mean 'avx512_vnni'?")
    ]


def test_disagreements_are_told_beside_other_mistakes(tmp_path: Path) -> None:
    """One run names everything: a wrong type does not hide that other values exclude each other."""
    text = GOOD.replace("cores = 4", 'cores = "four"').replace("usable_ram_gib = 3 ", "usable_ram_gib = 5 ")
    text += TABLES.replace("used = true", "on_gpu = true").replace("bits = 4", "bits = 3")
    assert sorted(line.partition(": ")[0] for line in problems_of(text, tmp_path)) == [
        "cores", "kernels 1", "published 1", "usable_ram_gib",
    ]  # fmt: skip
