"""The layout of scored chunks is llama.cpp's: 255 scored tokens in a chunk of 512, the begin token in place of the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgeport.errors import UsageError
from edgeport.export.evaluate.chunks import chunk_text


@pytest.fixture
def tokenizer_dir(tmp_path: Path) -> Path:
    vocab = {"<s>": 0, **{str(number): number + 1 for number in range(10)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def _text(folder: Path, count: int) -> Path:
    path = folder / "text.txt"
    path.write_text(" ".join(str(number % 10) for number in range(count)), encoding="utf-8")
    return path


def test_chunks_do_not_overlap_and_half_is_scored(tokenizer_dir: Path) -> None:
    text = chunk_text(_text(tokenizer_dir, 2100), tokenizer_dir, n_ctx=512, most_chunks=99)
    assert len(text.chunks) == 4 and {len(chunk) for chunk in text.chunks} == {512}
    assert (text.first_scored, text.scored_per_chunk) == (256, 255)
    assert text.chunks[1][0] == 512 % 10 + 1


def test_a_begin_token_replaces_the_first_of_each_chunk(tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(tokenizer_dir / "tokenizer.json"))
    text = chunk_text(_text(tokenizer_dir, 300), tokenizer_dir, n_ctx=100, most_chunks=2)
    assert [chunk[0] for chunk in text.chunks] == [0, 0]
    assert text.chunks[1][1] == (101 - 1) % 10 + 1  # the begin token also stands once before the whole text


def test_most_chunks_is_kept_and_short_texts_are_refused(tokenizer_dir: Path) -> None:
    assert len(chunk_text(_text(tokenizer_dir, 2100), tokenizer_dir, n_ctx=512, most_chunks=2).chunks) == 2
    with pytest.raises(UsageError, match="1000 tokens.*at least 1024"):
        chunk_text(_text(tokenizer_dir, 1000), tokenizer_dir, n_ctx=512, most_chunks=9)
    with pytest.raises(UsageError, match="cannot be read"):
        chunk_text(tokenizer_dir / "absent.txt", tokenizer_dir, n_ctx=512, most_chunks=9)
