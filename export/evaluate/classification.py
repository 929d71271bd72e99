"""A classification task scored by likelihood: which of the given choices does the model find most probable?

A task is a local file of JSON lines, `{"prompt": text, "choices": [text, ...], "answer": index}`. The choice with the highest
log likelihood per UTF-8 byte wins, as in lm-evaluation-harness' `acc_bytes`/`acc_norm` family: without the division a longer
choice loses by its length, and bytes, unlike tokens, do not depend on the tokenizer. The first of equals wins.

accuracy is the share of right choices. macro_f1 is the unweighted mean over the classes of F1 = 2 TP / (2 TP + FP + FN), over
every class that occurs as an answer or as a prediction (scikit-learn's `f1_score(average="macro")`; Sokolova and Lapalme 2009,
"A systematic analysis of performance measures for classification tasks"). The classes are the choices' texts when all items
offer the same ones, in whatever order, else the choices' indices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.export.evaluate.choices import Scorer, common_length


@dataclass(frozen=True, slots=True)
class TaskItem:
    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """prefix: the tokens all choices share. continuations: what follows for each choice. lengths: UTF-8 bytes of each choice."""

    prefix: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    items: tuple[TaskItem, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class ClassificationReport:
    """One container on one task. chance: accuracy of a blind guess. agreement: share of items with the source's choice."""

    task: str
    task_sha256: str
    items: int
    classes: int
    chance: float
    accuracy: float
    accuracy_error: float
    macro_f1: float
    source_accuracy: float
    source_macro_f1: float
    agreement: float


def read_task(path: Path) -> Task:
    """Read JSON lines. Raises UsageError with the line that is not an item."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task {path} cannot be read: {error}", hint="give a file of JSON lines") from error
    items = []
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            items.append(_item(line, f"{path}:{number}"))
    if not items:
        raise UsageError(f"{path} holds no item", hint=_ITEM_HINT)
    return Task(path.stem, tuple(items), hashlib.sha256(content.encode()).hexdigest())


_ITEM_HINT = 'each line is {"prompt": text, "choices": [text, text, ...], "answer": index of the right one}'


def _item(line: str, where: str) -> TaskItem:
    try:
        document = json.loads(line)
        prompt, choices, answer = document["prompt"], document["choices"], document["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where} is not an item: {error!r}", hint=_ITEM_HINT) from error
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice for choice in choices)
    if not isinstance(prompt, str) or not texts or len(set(choices)) < max(len(choices), 2):
        raise UsageError(f"{where} needs a text prompt and two or more different choices", hint=_ITEM_HINT)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise UsageError(f"{where}: answer {answer!r} is outside 0 .. {len(choices) - 1}", hint=_ITEM_HINT)
    return TaskItem(prompt, tuple(choices), answer)


def encode_item(item: TaskItem, tokenizer: Any, *, most_tokens: int) -> EncodedItem:
    """Tokens of prompt and choice together, split where the prompt alone and every choice still agree.

    A prompt's last tokens may merge with a choice's first letters; whatever merges is scored with every choice, so all
    are judged from the same place on. Raises UsageError when an item does not fit `most_tokens` or nothing is shared.
    """
    alone = tokenizer.encode(item.prompt).ids
    whole = [tokenizer.encode(item.prompt + choice).ids for choice in item.choices]
    shared = min(common_length(alone, tokens) for tokens in whole)
    shared = min(shared, *(len(tokens) - 1 for tokens in whole))
    longest = max(map(len, whole))
    if shared < 1 or longest > most_tokens:
        problem = "shares no token between its choices" if shared < 1 else f"has {longest} tokens"
        raise UsageError(
            f"the item that begins {item.prompt[:40]!r} {problem}; the context holds {most_tokens}",
            hint="give every item a prompt, shorter than the model's context",
        )
    return EncodedItem(
        tuple(whole[0][:shared]),
        tuple(tuple(tokens[shared:]) for tokens in whole),
        tuple(len(choice.encode()) for choice in item.choices),
    )


def choose(scorer: Scorer, item: EncodedItem) -> int:
    """Index of the choice with the highest log likelihood per byte."""
    scores = scorer.score(item.prefix, item.continuations)
    rates = [score.log_probability / length for score, length in zip(scores, item.lengths, strict=True)]
    return rates.index(max(rates))


def summarize_choices(task: Task, source: Sequence[int], container: Sequence[int]) -> ClassificationReport:
    """source, container: the index chosen for each item."""
    count = len(task.items)
    answers = [item.answer for item in task.items]
    accuracy = _share(answers, container)
    truth, ours, theirs = (_labels(task, indices) for indices in (answers, container, source))
    return ClassificationReport(
        task=task.name,
        task_sha256=task.sha256,
        items=count,
        classes=len({*truth, *ours, *theirs}),
        chance=sum(1 / len(item.choices) for item in task.items) / count,
        accuracy=accuracy,
        accuracy_error=(accuracy * (1 - accuracy) / (count - 1)) ** 0.5 if count > 1 else 0.0,
        macro_f1=macro_f1(truth, ours),
        source_accuracy=_share(answers, source),
        source_macro_f1=macro_f1(truth, theirs),
        agreement=_share(source, container),
    )


def _labels(task: Task, indices: Sequence[int]) -> list[str]:
    """The class each index stands for, as text."""
    if len({frozenset(item.choices) for item in task.items}) > 1:
        return [str(index) for index in indices]
    return [item.choices[index] for item, index in zip(task.items, indices, strict=True)]


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean over the classes in either sequence of 2 TP / (2 TP + FP + FN)."""
    scores = []
    for label in sorted({*truth, *predicted}):
        pairs = list(zip(truth, predicted, strict=True))
        hits = sum(left == right == label for left, right in pairs)
        named = sum(left == label for left, _ in pairs) + sum(right == label for _, right in pairs)
        scores.append(2 * hits / named)  # 2 TP + FP + FN: every time either side says `label`
    return sum(scores) / len(scores)


def _share(first: Sequence[int], second: Sequence[int]) -> float:
    return sum(left == right for left, right in zip(first, second, strict=True)) / len(first)
