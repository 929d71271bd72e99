"""Training text: where it comes from, what is left out of it, and the order in which it is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.export.recover.corpus import TrainingText, batch_windows, held_windows, load_training
from edgeport.export.recover.python_text import library_modules, standard_library
from edgeport.export.recover.settings import settings_from
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS

SMALL = {"n_ctx": 128, "text_tokens": 1 << 15, "held_tokens": 256}


def lines(first: int, count: int) -> str:
    """No two lines share a passage: each is a number in words of its own."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return "".join(
        f"line {' '.join(digits[int(digit)] for digit in str(number * 7919))} ends\n"
        for number in range(first, first + count)
    )


def made_up(windows: int) -> TrainingText:
    return TrainingText(
        np.zeros((windows, 4), dtype=np.int32), held_windows(windows, 4), ("made up",), 0, "sha"
    )


def test_windows_that_share_passages_with_the_heldout_text_are_left_out(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    text, heldout = tmp_path / "text.txt", tmp_path / "heldout.txt"
    text.write_text(lines(1000, 150) + lines(5000, 20) + lines(2000, 150))
    source, settings = open_source(str(tiny_llama_dir)), settings_from(SMALL | {"text": str(text)})
    whole = load_training(source, settings, heldout=None, work=tmp_path / "a", progress=NO_PROGRESS)
    heldout.write_text(lines(5000, 20))
    found = load_training(source, settings, heldout=heldout, work=tmp_path / "b", progress=NO_PROGRESS)
    assert whole.left_out == 0
    assert 0 < found.left_out < len(whole.windows) / 3
    assert len(found.windows) + found.left_out == len(whole.windows)

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_llama_dir / "tokenizer.json"))
    decoded = " ".join(tokenizer.decode(window.tolist()) for window in found.windows)
    all_decoded = " ".join(tokenizer.decode(window.tolist()) for window in whole.windows)
    leaked = [line for line in lines(5000, 20).splitlines() if line in decoded]
    assert not leaked
    assert sum(line in all_decoded for line in lines(5000, 20).splitlines()) > 5


def test_a_text_that_is_the_heldout_text_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(lines(0, 200))
    with pytest.raises(UsageError, match="share passages"):
        load_training(
            open_source(str(tiny_llama_dir)),
            settings_from(SMALL | {"text": str(text)}),
            heldout=text,
            work=tmp_path / "work",
            progress=NO_PROGRESS,
        )


def test_several_texts_are_joined_and_kept_for_the_next_call(tiny_llama_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(lines(0, 100))
    source, work = open_source(str(tiny_llama_dir)), tmp_path / "work"
    settings = settings_from(SMALL | {"text": ["embedded", str(text)]})
    first = load_training(source, settings, heldout=None, work=work, progress=NO_PROGRESS)
    assert len(first.origin) == 2
    assert first.windows.shape[1] == 128
    stamp = (work / "text.npy").stat().st_mtime_ns
    again = load_training(source, settings, heldout=None, work=work, progress=NO_PROGRESS)
    assert (work / "text.npy").stat().st_mtime_ns == stamp
    assert again.sha256 == first.sha256
    text.write_text(lines(50, 100))
    other = load_training(source, settings, heldout=None, work=work, progress=NO_PROGRESS)
    assert other.sha256 != first.sha256


def test_python_is_the_library_without_tests_and_tables() -> None:
    paths = [path for path, _ in library_modules(standard_library())]
    assert "json/decoder.py" in paths
    assert "argparse.py" in paths
    for folder in ("test", "tests", "encodings", "site-packages", "__pycache__"):
        assert not [path for path in paths if folder in path.split("/")[:-1]]
    assert paths == sorted(paths)


def test_each_epoch_is_another_permutation_of_what_is_trained_on() -> None:
    text = made_up(103)
    count = len(text.trained)
    assert not set(text.trained) & set(text.held)
    seen = np.concatenate([batch_windows(text, step, 5, seed=3) for step in range(2 * count // 5 + 1)])
    first, second = seen[:count], seen[count : 2 * count]
    assert sorted(first) == sorted(second) == list(text.trained)
    assert list(first) != list(second)
    assert list(batch_windows(text, 0, 5, seed=4)) != list(first[:5])
    assert list(batch_windows(text, 7, 5, seed=3)) == list(first[35:40])


@pytest.mark.parametrize("windows", [2, 3, 10, 11, 100, 5000])
def test_held_windows_are_few_spread_and_distinct(windows: int) -> None:
    held = held_windows(windows, 32)
    assert 1 <= len(held) <= max(1, windows // 10)
    assert len(set(held.tolist())) == len(held)
    assert held.min() >= 0
    assert held.max() < windows
    if windows == 5000:
        assert len(held) == 32
        assert (np.diff(held) == 1).sum() == 24  # 8 runs of 4


def test_one_window_cannot_be_trained_and_measured_on() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        held_windows(1, 32)
