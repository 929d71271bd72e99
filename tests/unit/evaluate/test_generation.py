"""Greedy texts part where they part, loops are counted in both, and prompts are taken as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bigram_session import BigramSession
from tokenizers import Tokenizer, models, pre_tokenizers

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.export.evaluate.chunks import ChunkedText
from edgeport.export.evaluate.generation import compare_generations, continue_greedily, first_divergence
from edgeport.export.evaluate.prompts import prompts_from_file, prompts_from_text

CYCLE = np.eye(5)[[1, 2, 3, 4, 0]]  # after token n comes n + 1


@pytest.mark.parametrize(
    ("source", "container", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [9, 2, 3], 0),
        ([1, 2, 3], [1, 2, 9], 2),
        ([1, 2, 3], [1, 2], 2),  # one has ended
        ([1], [1, 2, 3], 1),
    ],
)
def test_first_divergence(source: list[int], container: list[int], expected: int | None) -> None:
    assert first_divergence(source, container) == expected


def test_greedy_text_follows_the_argmax_to_the_limit_or_a_stop_token() -> None:
    assert continue_greedily(BigramSession(CYCLE), [0], 7, ()) == [1, 2, 3, 4, 0, 1, 2]
    assert continue_greedily(BigramSession(CYCLE), [0], 7, (3,)) == [1, 2, 3]
    session = BigramSession(CYCLE)
    continue_greedily(session, [0, 1], 3, ())
    assert continue_greedily(session, [2], 2, ()) == [3, 4], "a session that held another text"


def test_logits_that_are_not_finite_are_no_text() -> None:
    with pytest.raises(RuntimeFailure, match="not finite"):
        continue_greedily(BigramSession(np.full((5, 5), np.nan)), [0], 7, ())


def test_the_report_counts_loops_of_both_sides() -> None:
    text, loop = list(range(60)), [7, 8] * 30
    report = compare_generations(
        [text, text, loop, text], [text, loop, loop, [0, 1, 99]], new_tokens=60, prompts_sha256="0"
    )
    assert report.first_divergence == (None, 0, None, 2)
    assert (report.prompts, report.never_diverged) == (4, 0.5)
    assert (report.loops, report.source_loops, report.new_loops) == (0.5, 0.25, 0.25)


def test_the_median_counts_agreement_as_later_than_any_token() -> None:
    def median(*pairs: tuple[list[int], list[int]]) -> float | None:
        left, right = zip(*pairs, strict=True)
        return compare_generations(left, right, new_tokens=2, prompts_sha256="0").median_first_divergence

    same, parted = ([1, 2], [1, 2]), ([1, 2], [1, 3])
    assert median(parted, parted, same) == 1
    assert median(parted, same, same) is None
    assert median(parted, same) is None  # half of them never part: no token can be named


def test_prompts_are_beginnings_of_chunks_spread_over_the_text() -> None:
    text = ChunkedText(tuple(tuple(range(at, at + 100)) for at in range(0, 1000, 100)), 100, "0")
    prompts = prompts_from_text(text, 5)
    assert [tokens[0] for tokens in prompts.tokens] == [0, 200, 400, 600, 800]
    assert {len(tokens) for tokens in prompts.tokens} == {32}
    assert len(prompts_from_text(text, 99).tokens) == 10
    assert prompts.sha256 != prompts_from_text(text, 4).sha256


def test_prompts_from_files(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    plain, lines = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    plain.write_text("a b\n\nb\n")
    lines.write_text('{"prompt": "a\\nb"}\n')
    assert prompts_from_file(plain, tokenizer, most_tokens=2).tokens == ((0, 1), (1,))
    assert prompts_from_file(lines, tokenizer, most_tokens=2).tokens == ((0, 1),)
    with pytest.raises(UsageError, match="prompt 1 .* has 2 tokens, allowed are 1 .. 1"):
        prompts_from_file(plain, tokenizer, most_tokens=1)
    lines.write_text('{"text": "a"}\n')
    for path in (lines, tmp_path / "absent.txt"):
        with pytest.raises(UsageError, match="cannot be read"):
            prompts_from_file(path, tokenizer, most_tokens=9)
    plain.write_text("\n")
    with pytest.raises(UsageError, match="holds no prompt"):
        prompts_from_file(plain, tokenizer, most_tokens=9)
