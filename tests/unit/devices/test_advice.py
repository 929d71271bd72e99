"""Advice on a memory function with planted numbers: applied it fits, one step milder it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.devices.advice import Advice, Change, Knob, Value, solve

WEIGHTS = {"f16": 1600, "int8": 850, "int4": 450}
SMALLEST = 225 + 64
"""INT4 at half the width, 256 tokens in 4 bits."""


def needed(values: Mapping[str, Value]) -> int:
    """One byte per token and KV bit, weights by precision and by the share of the width that is kept."""
    context, kv_bits = int(values["context"]), int(values["kv_bits"])
    return WEIGHTS[str(values["precision"])] * int(values["width"]) // 64 + context * kv_bits // 16


def knobs(context: int = 1000, precision: str = "f16") -> Sequence[Knob]:
    names = list(WEIGHTS)
    return (
        Knob("kv_bits", (16, 8, 4)),
        Knob("precision", names[names.index(precision) :]),
        Knob("context", range(context, 255, -1)),
        Knob("width", range(64, 31, -1)),
    )


def test_nothing_is_advised_where_it_fits() -> None:
    assert solve(knobs(), lambda values: needed(values) <= 2600) == Advice()


def test_each_change_alone_is_the_mildest_that_fits() -> None:
    advice = solve(knobs(), lambda values: needed(values) <= 2200)
    assert advice.alone == (
        Change("kv_bits", 16, 8),
        Change("precision", "f16", "int8"),
        Change("context", 1000, 600),
        Change("width", 64, 48),
    )
    assert advice.together == () and advice.helps


def test_the_fewest_together_where_none_is_enough_alone() -> None:
    """1600 + 1000 into 800: no single change does; 4-bit weights and an 8-bit cache are 450 + 500, a 4-bit cache 450 + 250."""
    advice = solve(knobs(), lambda values: needed(values) <= 800)
    assert advice.alone == ()
    assert advice.together == (Change("kv_bits", 16, 4), Change("precision", "f16", "int4"))


def test_nothing_helps() -> None:
    advice = solve(knobs(), lambda values: needed(values) <= 10)
    assert advice == Advice() and not advice.helps


@given(st.integers(10, 2700))
def test_advice_applied_fits_and_one_step_less_does_not(available: int) -> None:
    def fits(values: Mapping[str, Value]) -> bool:
        return needed(values) <= available

    table = {knob.name: knob for knob in knobs()}
    present = {name: knob.values[0] for name, knob in table.items()}
    advice = solve(tuple(table.values()), fits)
    assert advice.helps == (not fits(present) and available >= SMALLEST)
    for changes in (*((change,) for change in advice.alone), advice.together):
        applied = present | {change.knob: change.after for change in changes}
        assert fits(applied) == bool(changes or fits(present))
        for change in changes:
            values = table[change.knob].values
            milder = values[values.index(change.after) - 1]
            assert not fits(applied | {change.knob: milder})


@pytest.mark.parametrize("name", ["kv_bits", "context"])
def test_a_setting_without_room_is_never_advised(name: str) -> None:
    fixed = [Knob(knob.name, knob.values[:1]) if knob.name == name else knob for knob in knobs()]
    advice = solve(fixed, lambda values: needed(values) <= 2200)
    assert advice.alone and name not in {change.knob for change in advice.alone}
