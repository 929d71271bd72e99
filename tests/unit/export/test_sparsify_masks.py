"""Which entries go: exact counts per row, per tensor and per group; and what settings are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.export.sparsify.method import Target, mask_of
from edgeport.export.sparsify.methods import METHODS, get_method
from edgeport.export.sparsify.pattern import PATTERNS
from edgeport.export.sparsify.schedule import cubic_schedule
from edgeport.export.sparsify.settings import SparsifySettings, check_settings, parse_sparsify

SCORES = np.random.default_rng(0).random((24, 160)).astype(np.float32)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.777])
def test_every_row_loses_its_lowest(sparsity: float) -> None:
    mask = mask_of(SCORES, Target(sparsity, PATTERNS["unstructured"]))
    assert (mask.sum(axis=1) == round(sparsity * 160)).all()
    for scores, gone in zip(SCORES, mask, strict=True):
        assert scores[gone].max() < scores[~gone].min()


def test_a_tensor_loses_its_lowest_wherever_they_are() -> None:
    mask = mask_of(SCORES, Target(0.3, PATTERNS["unstructured"], "tensor"))
    assert mask.sum() == round(0.3 * SCORES.size)
    assert SCORES[mask].max() < SCORES[~mask].min()
    assert len(set(mask.sum(axis=1).tolist())) > 1


@pytest.mark.parametrize(("name", "kept", "group"), [("2:4", 2, 4), ("4:8", 4, 8)])
def test_every_group_keeps_its_highest(name: str, kept: int, group: int) -> None:
    mask = mask_of(SCORES, Target(0.5, PATTERNS[name])).reshape(-1, group)
    groups = SCORES.reshape(-1, group)
    assert ((~mask).sum(axis=1) == kept).all()
    for scores, gone in zip(groups, mask, strict=True):
        assert scores[gone].max() < scores[~gone].min()


def test_equal_scores_go_from_the_left() -> None:
    mask = mask_of(np.ones((2, 8), dtype=np.float32), Target(0.25, PATTERNS["unstructured"]))
    assert mask.tolist() == [[True] * 2 + [False] * 6] * 2


def test_the_schedule_is_cubic() -> None:
    found = cubic_schedule(0.8, 4)
    assert found == pytest.approx([0.8 * (1 - (1 - step / 4) ** 3) for step in (1, 2, 3, 4)])
    assert found[-1] == 0.8
    assert cubic_schedule(0.5, 1) == (0.5,)


def test_settings_are_read_back() -> None:
    problems: list[str] = []
    settings = SparsifySettings("magnitude", 0.25, "unstructured", "tensor", 3)
    assert parse_sparsify(settings.to_document(), problems=problems) == settings
    assert parse_sparsify({"pattern": "4:8"}, problems=problems).sparsity == 0.5
    assert problems == []


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"method": "wnada"}, "one of magnitude, wanda, sparsegpt"),
        ({"pattern": "3:4"}, "one of unstructured, 2:4, 4:8"),
        ({"sparsity": 1.0}, "between 0 and 1"),
        ({"sparsity": True}, "between 0 and 1"),
        ({"sparsity": 0.6, "pattern": "2:4"}, "pattern 2:4 has 0.5"),
        ({"rounds": 0}, "from 1 to 100"),
        ({"rounds": 2, "pattern": "4:8"}, "takes one round"),
        ({"scope": "tensor"}, "is for method magnitude"),
        ({"sparsty": 0.5}, "did you mean 'sparsity'"),
    ],
)
def test_what_cannot_be_is_told(document: dict[str, Any], told: str) -> None:
    problems: list[str] = []
    parse_sparsify(document, problems=problems)
    assert any(told in problem for problem in problems), problems


def test_all_problems_come_at_once() -> None:
    with pytest.raises(UsageError, match="sparsity is 2.*") as caught:
        check_settings(SparsifySettings("none", 2.0))
    assert "method is 'none'" in caught.value.message


def test_every_method_loads() -> None:
    for name in METHODS:
        assert callable(get_method(name))
