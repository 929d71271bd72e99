"""Choices are scored as probability says, F1 is scikit-learn's, and the task of the reference model is its held-out text's."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bigram_session import BigramSession
from tokenizers import Tokenizer

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.export.evaluate import classification
from edgeport.export.evaluate.choices import Scorer, common_length
from edgeport.export.evaluate.classification import (
    EncodedItem,
    Task,
    TaskItem,
    choose,
    encode_item,
    macro_f1,
    read_task,
    summarize_choices,
)

MODELS = Path(__file__).resolve().parents[3] / "models"
LOGITS = np.random.default_rng(0).normal(0, 2, (6, 6))
LOG_P = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))


def test_a_continuation_scores_the_sum_of_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (256, 2):  # in one piece, and in pieces of two tokens
        monkeypatch.setattr("edgeport.export.evaluate.choices.LOGIT_ROWS", rows)
        scorer = Scorer(BigramSession(LOGITS))
        scores = scorer.score([3, 1], [[2], [4, 0, 5, 1, 1], [0, 0]])
        assert scores[0].log_probability == pytest.approx(LOG_P[1, 2], rel=1e-6)
        path = LOG_P[1, 4] + LOG_P[4, 0] + LOG_P[0, 5] + LOG_P[5, 1] + LOG_P[1, 1]
        assert scores[1].log_probability == pytest.approx(path, rel=1e-6)
        assert scores[2].log_probability == pytest.approx(LOG_P[1, 0] + LOG_P[0, 0], rel=1e-6)


def test_greedy_means_every_token_is_the_argmax() -> None:
    after = LOGITS.argmax(axis=1)
    best = [int(after[1]), int(after[after[1]])]
    second_wrong = [best[0], (best[1] + 1) % 6]
    scores = Scorer(BigramSession(LOGITS)).score([1], [best, second_wrong])
    assert [score.greedy for score in scores] == [True, False]


def test_a_shared_beginning_is_fed_once() -> None:
    session = BigramSession(LOGITS)
    scorer, prefix = Scorer(session), [0, 1, 2, 3, 4, 5] * 4
    first = scorer.score(prefix, [[1, 2], [3]])
    fed = session.fed
    assert scorer.score(prefix, [[1, 2], [3]]) == first
    assert session.tokens == prefix, "what a choice left behind is taken back"
    assert session.fed - fed == 2, "the prefix's last token, whose logits are needed, and one of a choice"
    assert scorer.score([*prefix[:-1], 0], [[1]]) == Scorer(BigramSession(LOGITS)).score([0], [[1]])


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="no tokens"):
        Scorer(BigramSession(LOGITS)).score([], [[1]])
    with pytest.raises(RuntimeFailure, match="not finite"):
        Scorer(BigramSession(np.full((6, 6), np.nan))).score([1], [[1]])
    assert common_length([1, 2, 3], [1, 2, 4]) == 2 and common_length([1], [1, 2]) == 1


def test_the_highest_probability_per_byte_is_chosen() -> None:
    item = EncodedItem((1,), ((2,), (4, 0)), (1, 1000))
    assert choose(Scorer(BigramSession(LOGITS)), item) == 1, "a thousand bytes make any loss small"
    rates = [LOG_P[1, 2] / 3, (LOG_P[1, 4] + LOG_P[4, 0]) / 2]
    item = EncodedItem((1,), ((2,), (4, 0)), (3, 2))
    assert choose(Scorer(BigramSession(LOGITS)), item) == int(np.argmax(rates))


def test_f1_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    dice = random.Random(1)
    for classes in (2, 3, 7):
        truth = [str(dice.randrange(classes)) for _ in range(60)]
        guess = [label if dice.random() < 0.6 else str(dice.randrange(classes + 1)) for label in truth]
        assert macro_f1(truth, guess) == pytest.approx(metrics.f1_score(truth, guess, average="macro"))


def test_f1_by_hand() -> None:
    # a: TP 1, FN 1, FP 1 -> 1/2; b: TP 1, FP 1 -> 2/3; c: FN 1 -> 0
    assert macro_f1(["a", "a", "b", "c"], ["a", "b", "b", "a"]) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)


def test_the_report_says_how_often_the_source_is_followed() -> None:
    items = tuple(TaskItem("p", ("x", "y"), answer) for answer in (0, 0, 1, 1))
    task = Task("toy", items, "0")
    report = summarize_choices(task, source=[0, 0, 1, 0], container=[0, 1, 1, 0])
    assert (report.accuracy, report.source_accuracy, report.agreement) == (0.5, 0.75, 0.75)
    assert (report.chance, report.items, report.classes) == (0.5, 4, 2)
    assert report.macro_f1 == pytest.approx(0.5)


def test_classes_are_texts_whatever_their_order() -> None:
    """Always choosing `x` is one class, though its index moves."""
    items = (TaskItem("p", ("x", "y"), 0), TaskItem("p", ("y", "x"), 1), TaskItem("p", ("x", "y"), 1))
    report = summarize_choices(Task("toy", items, "0"), source=[0, 1, 0], container=[0, 1, 0])
    assert report.macro_f1 == pytest.approx((4 / 5 + 0) / 2)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no json", ":2 is not an item"),
        ('{"prompt": "p", "choices": ["a", "b"]}', ":2 is not an item"),
        ('{"prompt": "p", "choices": ["a"], "answer": 0}', "two or more different choices"),
        ('{"prompt": "p", "choices": ["a", "a"], "answer": 0}', "two or more different choices"),
        ('{"prompt": "p", "choices": ["a", ""], "answer": 0}', "two or more different choices"),
        ('{"prompt": "p", "choices": ["a", "b"], "answer": 2}', "answer 2 is outside 0 .. 1"),
        ('{"prompt": "p", "choices": ["a", "b"], "answer": true}', "answer True is outside"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"prompt": "p", "choices": ["a", "b"], "answer": 0}\n' + line + "\n")
    with pytest.raises(UsageError, match=problem):
        read_task(path)


def test_an_empty_or_absent_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text("\n")
    with pytest.raises(UsageError, match="holds no item"):
        read_task(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_task(tmp_path / "absent.jsonl")


def test_choices_are_judged_from_one_place_when_they_merge_with_the_prompt() -> None:
    """The spaces of the prompt's last line belong to the first word after them in this tokenizer."""
    tokenizer = Tokenizer.from_file(str(MODELS / "reference" / "tokenizer.json"))
    item = TaskItem("def area(self):\n    ", ("return", "raise"), 0)
    encoded = encode_item(item, tokenizer, most_tokens=100)
    for choice, continuation in zip(item.choices, encoded.continuations, strict=True):
        assert [*encoded.prefix, *continuation] == tokenizer.encode(item.prompt + choice).ids
    assert len(encoded.prefix) < len(tokenizer.encode(item.prompt).ids)
    assert encoded.lengths == (6, 5)
    with pytest.raises(UsageError, match="has [0-9]+ tokens; the context holds 3"):
        encode_item(item, tokenizer, most_tokens=3)
    with pytest.raises(UsageError, match="shares no token"):
        encode_item(TaskItem("", ("return", "raise"), 0), tokenizer, most_tokens=100)


def test_the_shipped_task_is_cut_from_the_heldout_text() -> None:
    sys.path.insert(0, str(MODELS))
    import reference_task

    folder = MODELS / "reference" / "text"
    heldout = (folder / "heldout.txt").read_text(encoding="utf-8")
    task = read_task(folder / "task.jsonl")
    built = [json.loads(line) for line in (folder / "task.jsonl").read_text(encoding="utf-8").splitlines()]
    assert built == reference_task.build_items(heldout)
    assert all(item.prompt + item.choices[item.answer] in heldout for item in task.items)
    assert set(Counter(item.answer for item in task.items).values()) == {25} and len(task.items) == 150
    assert classification.macro_f1(["0"], ["0"]) == 1
