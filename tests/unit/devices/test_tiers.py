"""The two tables of the mission: size to hardware, and size and target to method."""

from __future__ import annotations

import pytest

from edgeport.devices.catalog import HOST, load_profile, names
from edgeport.devices.tiers import TIERS, choose_method, tier_for


@pytest.mark.parametrize(
    ("parameters", "tier"),
    [
        (135e6, "edge"), (999_999_999, "edge"), (1e9, "workstation"), (6.9e9, "workstation"), (7e9, "server"),
        (29e9, "server"), (30e9, "multi-gpu"), (69e9, "multi-gpu"), (70e9, "cluster"), (405e9, "cluster"),
    ],
)  # fmt: skip
def test_tier_for(parameters: float, tier: str) -> None:
    assert tier_for(int(parameters)).name == tier


def test_limits_rise_and_the_last_row_takes_everything() -> None:
    limits = [tier.parameter_limit for tier in TIERS]
    assert limits[-1] is None
    known = [limit for limit in limits if limit is not None]
    assert known == sorted(set(known))
    assert len(known) == len(limits) - 1


@pytest.mark.parametrize(
    ("parameters", "device_tier", "method"),
    [
        (135e6, "edge", "int4 + structured pruning"),
        (8e9, "edge", "int4 + structured pruning"),
        (1.24e9, "workstation", "int8"),
        (1_999_999_999, "workstation", "int8"),
        (2e9, "workstation", "awq"),
        (7.9e9, "server", "awq"),
        (8e9, "server", "gptq + sharding"),
        (70e9, "multi-gpu", "gptq + sharding"),
    ],
)
def test_method_and_reason(parameters: float, device_tier: str, method: str) -> None:
    choice = choose_method(int(parameters), device_tier)
    assert choice.method == method
    assert device_tier in choice.reason
    assert "16 bits" in choice.reason


def test_every_tier_has_shipped_devices() -> None:
    tiers = {load_profile(name).tier for name in names() if name != HOST}
    assert tiers == {tier.name for tier in TIERS}


@pytest.mark.parametrize(
    ("device", "tier"),
    [
        ("rtx-4070", "edge"), ("rtx-4090", "workstation"), ("a100-40gb-pcie", "server"), ("multi-gpu", "multi-gpu"),
        ("4x-h100-80gb-sxm", "cluster"),
    ],
)  # fmt: skip
def test_the_hardware_a_tier_names_belongs_to_it(device: str, tier: str) -> None:
    assert load_profile(device).tier == tier
