"""INT8 weights keep to seven bits exactly where products of eight bits could saturate."""

from __future__ import annotations

import pytest

from edgeport.devices.catalog import load_profile
from edgeport.devices.int8_range import VNNI_FLAGS, int8_range


@pytest.mark.parametrize("flag", VNNI_FLAGS)
def test_vnni_takes_all_eight_bits(flag: str) -> None:
    found = int8_range("x86_64", ("avx", "avx2", flag))
    assert (found.bits, found.limit) == (8, 127) and flag in found.reason


@pytest.mark.parametrize("isa", [("avx", "avx2", "fma"), ("avx2", "avx512f", "avx512bw", "avx512vl")])
def test_x86_without_it_takes_seven(isa: tuple[str, ...]) -> None:
    found = int8_range("x86_64", isa)
    assert (found.bits, found.limit) == (7, 63)
    assert "VNNI" in found.reason and "reduce_range" in found.reason


def test_the_limit_is_what_two_products_allow() -> None:
    assert 2 * 255 * int8_range("x86_64", ("avx2",)).limit < 1 << 15 < 2 * 255 * 127


def test_arm_adds_without_saturation() -> None:
    assert int8_range("aarch64", ("neon",)).bits == 8


def test_an_unknown_processor_is_taken_for_the_weakest() -> None:
    assert int8_range(None, ()).bits == int8_range("x86_64", ()).bits == 7
    assert "profile" in int8_range(None, ()).reason


def test_this_machine_has_an_answer() -> None:
    profile = load_profile("host")
    assert int8_range(profile.architecture, profile.isa).bits in (7, 8)
