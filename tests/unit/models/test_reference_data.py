"""The reference model's data: disjoint splits, shipped text that is what the splits say, a tokenizer that round-trips."""

from __future__ import annotations

import ast
import itertools
import json
import random
from pathlib import Path

import pytest

pytest.importorskip("transformers")
import reference_data as data

SLICES = ("calibration", "heldout")


def synthetic_modules(count: int) -> list[data.Module]:
    dice = random.Random(0)
    return [
        data.Module(
            f"{'test/' if dice.random() < 0.3 else ''}module_{index}.py", "x = 1\n" * dice.randint(10, 9000)
        )
        for index in range(count)
    ]


def test_splits_are_disjoint_complete_and_of_the_right_size() -> None:
    modules = synthetic_modules(200)
    splits = data.split_modules(modules)
    parts = (splits.training, splits.calibration, splits.heldout, splits.validation)
    assert sorted(module.path for part in parts for module in part) == sorted(
        module.path for module in modules
    )
    for part, budget in ((splits.heldout, data.HELDOUT_BYTES), (splits.calibration, data.CALIBRATION_BYTES)):
        assert 0.9 * budget < sum(module.size_bytes for module in part) < 1.03 * budget
        assert not any(module.is_test for module in part)


def test_a_split_does_not_depend_on_the_order_of_the_files() -> None:
    modules = synthetic_modules(200)
    assert data.split_modules(modules) == data.split_modules(modules[::-1])


def test_shipped_split_is_disjoint(reference: Path) -> None:
    split = json.loads((reference / "text" / "split.json").read_text(encoding="utf-8"))
    for first, second in itertools.combinations(split, 2):
        assert not set(split[first]) & set(split[second])


@pytest.mark.parametrize("name", SLICES)
def test_shipped_text_holds_the_modules_of_its_split(reference: Path, name: str) -> None:
    split = json.loads((reference / "text" / "split.json").read_text(encoding="utf-8"))
    text = (reference / "text" / f"{name}.txt").read_text(encoding="utf-8")
    marks = [line[6:] for line in text.splitlines() if line.startswith("# --- ") and line.endswith(".py")]
    assert marks == split[name]
    assert 240_000 < len(text.encode()) < 280_000
    for piece in text.split("# --- ")[1:]:
        ast.parse(piece.split("\n", 1)[1])


def test_licence_is_beside_the_text(reference: Path) -> None:
    notice = (reference / "text" / "LICENSE-PSF.txt").read_text(encoding="utf-8")
    assert "Python Software Foundation" in notice and "PYTHON SOFTWARE FOUNDATION LICENSE" in notice


def test_tokenizer_round_trips_and_adds_nothing(reference: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference)
    assert len(tokenizer) == data.VOCAB_SIZE
    assert tokenizer.convert_tokens_to_ids([data.END_OF_TEXT, data.TURN_START, data.TURN_END]) == [0, 1, 2]
    sample = (reference / "text" / "heldout.txt").read_text(encoding="utf-8")[:20_000]
    for text in (sample, " leading", "tab\there\r\n\r\n", "naïve 日本語 😀\n", "x" * 300, "12345 + 6.7e-8"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert not set(ids) & {0, 1, 2}


def test_chat_template_ends_where_the_answer_begins(reference: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference)
    turns = [{"role": "user", "content": "def f():"}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\ndef f():<|im_end|>\n<|im_start|>assistant"
    whole = data.as_chat("def f():", "    return 1")
    assert whole.startswith(prompt)
    encode = tokenizer.backend_tokenizer.encode
    assert (
        encode(whole).ids[: len(encode(prompt).ids)] == encode(prompt).ids
    )  # as in training, token by token


def test_completion_pairs_cut_behind_the_docstring() -> None:
    source = (
        'class A:\n    def f(self):\n        """Doc."""\n        x = 1\n        y = 2\n        return x + y\n'
    )
    assert data.completion_pairs(data.Module("a.py", source)) == [
        ('def f(self):\n    """Doc."""', "    x = 1\n    y = 2\n    return x + y")
    ]


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("encodings/cp1250.py", True),
        ("site-packages/x.py", True),
        ("_sysconfigdata__linux_.py", True),
        ("pydoc_data/topics.py", True),
        ("json/decoder.py", False),
        ("test/test_json/test_dump.py", False),
    ],
)
def test_what_is_left_out(path: str, left_out: bool) -> None:
    assert data.is_excluded(path) is left_out
