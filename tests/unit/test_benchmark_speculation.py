"""benchmarks/speculation.py: the text is compared, and a proposer that changes it is seen. No time is looked at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import speculation  # noqa: E402

from edgeport.runtimes.container import Container  # noqa: E402
from edgeport.runtimes.lookup import PromptLookup  # noqa: E402

PROMPTS = [[number, 1, 2, 3, 1, 2] for number in range(12)]


class Circle:
    """Counts modulo five; `skew` is added to the logits of rows judged together, as an engine with another kernel for them would."""

    vocab_size, context_length = 16, 200

    def __init__(self, skew: float = 0.0) -> None:
        self.skew, self.fed = skew, list[int]()

    @property
    def position(self) -> int:
        return len(self.fed)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        self.fed += tokens
        rows = np.zeros((len(tokens) if all_logits else 1, 16), np.float32)
        for row, token in zip(rows, tokens[-len(rows) :], strict=True):
            row[(token + 1) % 5], row[7] = 1.0, self.skew if all_logits else 0.0
        return rows

    def rewind(self, position: int) -> None:
        del self.fed[position:]

    def close(self) -> None:
        pass


def compare(skew: float) -> speculation.Result:
    task = speculation.Task("", "gguf", "", 6, 40, len(PROMPTS), 1, False, None)
    return speculation.compare(task, "lookup", PromptLookup(), Circle(skew), PROMPTS)


def test_equal_texts_are_counted() -> None:
    found = compare(0.0)
    assert (found.same_texts, found.prompts) == (12, 12)
    assert found.acceptance.tokens_per_step > 5 and found.ratio.low <= found.ratio.ratio <= found.ratio.high


def test_a_text_that_proposals_changed_is_seen() -> None:
    assert compare(2.0).same_texts == 0


def test_prompts_are_pieces_of_the_text_as_long_as_asked_for() -> None:
    folder = ROOT / "models" / "reference"
    task = speculation.Task("", "onnx", str(folder / "text" / "heldout.txt"), 50, 8, 5, 1, False, None)
    prompts = speculation.cut_prompts(Container("onnx", folder), task)
    assert [len(prompt) for prompt in prompts] == [50] * 5
    assert len({tuple(prompt) for prompt in prompts}) == 5


def test_too_few_prompts_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["speculation.py", "artifact", "--prompts", "2"])
    with pytest.raises(SystemExit, match="2"):
        speculation.arguments_of()
