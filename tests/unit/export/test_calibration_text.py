"""Calibration text: every source, how windows are cut, and what is refused."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.calibrate import reading
from edgeport.export.calibrate.sources import embedded_text, load_calibration
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.source import SourceModel, open_source
from edgeport.progress import NO_PROGRESS

TEXT = "".join(
    f"line {number} of a text with some words and the value {number * 37 % 101}\n" for number in range(2000)
)


@pytest.fixture(scope="module")
def llama(tiny_llama_dir: Path) -> SourceModel:
    return open_source(str(tiny_llama_dir))


@pytest.fixture(scope="module")
def qwen2(tiny_qwen2_dir: Path) -> SourceModel:
    return open_source(str(tiny_qwen2_dir))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def load(
    wanted: object, source: SourceModel, *, tokens: int = 640, n_ctx: int = 64, heldout: Path | None = None
) -> CalibrationText:
    return load_calibration(
        str(wanted), source, tokens=tokens, n_ctx=n_ctx, heldout=heldout, progress=NO_PROGRESS
    )


def token_ids(source: SourceModel, text: str) -> list[int]:
    """By transformers, which load_calibration does not use."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.directory)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_windows_are_spread_evenly_and_do_not_overlap(qwen2: SourceModel, file: Path) -> None:
    got = load(file, qwen2)
    ids = token_ids(qwen2, TEXT)
    assert got.windows.shape == (10, 64) and got.windows.dtype == np.int64
    step = (len(ids) - 64) / 9
    for number, window in enumerate(got.windows.tolist()):
        start = int(number * step)
        assert window == ids[start : start + 64]
    assert f"{file}: 10 windows of 64 tokens out of {len(ids)} tokens" == got.origin


def test_a_begin_token_replaces_the_first_of_each_window(llama: SourceModel, file: Path) -> None:
    got = load(file, llama)
    ids = token_ids(llama, TEXT)
    assert (got.windows[:, 0] == 0).all()
    assert got.windows[0, 1:].tolist() == ids[1:64]
    assert got.windows[-1, 1:].tolist() == ids[-63:]


def test_the_same_digest_twice_and_another_for_another_text(qwen2: SourceModel, file: Path) -> None:
    first = load(file, qwen2)
    assert first.sha256 == load(file, qwen2).sha256
    assert first.sha256 != load(file, qwen2, n_ctx=32).sha256
    file.write_text(TEXT.replace("words", "numbers"), encoding="utf-8")
    assert first.sha256 != load(file, qwen2).sha256


def test_fewer_windows_than_wanted_are_told(qwen2: SourceModel, file: Path) -> None:
    file.write_text(TEXT[:2000], encoding="utf-8")
    got = load(file, qwen2, tokens=64_000)
    count = len(token_ids(qwen2, TEXT[:2000])) // 64
    assert len(got.windows) == count
    assert f"{count} windows of 64 tokens (1000 were wanted)" in got.origin


def test_less_than_a_window_is_refused_with_both_numbers(qwen2: SourceModel, file: Path) -> None:
    file.write_text("too short", encoding="utf-8")
    count = len(token_ids(qwen2, "too short"))
    with pytest.raises(UsageError, match=rf"has {count} tokens, one window takes 64") as refused:
        load(file, qwen2)
    assert refused.value.hint is not None and "longer text" in refused.value.hint
    file.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="has 0 tokens"):
        load(file, qwen2)


def test_windows_beyond_the_context_are_refused(qwen2: SourceModel, file: Path) -> None:
    with pytest.raises(UsageError, match="257.*context is 256"):
        load(file, qwen2, n_ctx=257)
    for sizes in ({"n_ctx": 1}, {"tokens": 0}):
        with pytest.raises(UsageError):
            load(file, qwen2, **sizes)


def test_a_token_without_an_embedding_is_refused_by_name(
    tiny_qwen2_dir: Path, edited: Any, file: Path
) -> None:
    copy = edited(tiny_qwen2_dir)
    document = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"].append(
        {"id": 600, "content": "<|beyond|>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    )  # fmt: skip
    (copy / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    source = open_source(str(copy))
    assert load(file, source).windows.max() < 512
    file.write_text(TEXT + "<|beyond|>" + TEXT, encoding="utf-8")
    with pytest.raises(UnsupportedModel, match=r"embeddings 0 to 511"):
        load(file, source, tokens=10**6)


def test_json_lines(qwen2: SourceModel, tmp_path: Path) -> None:
    lines = TEXT.splitlines(keepends=True)
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(json.dumps({"text": line, "id": 3}) for line in lines) + "\n", encoding="utf-8")
    ids = token_ids(qwen2, "\n\n".join(lines))
    assert load(path, qwen2).windows[0].tolist() == ids[:64]
    path.write_text(path.read_text(encoding="utf-8") + '{"txt": 1}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r'line 2001: no field "text"'):
        load(path, qwen2)
    path.write_text("{\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 1: not JSON"):
        load(path, qwen2)


def test_a_folder_in_order_of_paths_without_binary_files(qwen2: SourceModel, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.md").write_text(TEXT[20_000:40_000], encoding="utf-8")
    (tmp_path / "a.py").write_text(TEXT[:20_000], encoding="utf-8")
    (tmp_path / "c.bin").write_bytes(b"\x00\xff" * 100)
    (tmp_path / "d.dat").write_bytes(b"\xff\xfe" * 100)
    (tmp_path / ".hidden").write_text("secret " * 1000, encoding="utf-8")
    got = load(tmp_path, qwen2, tokens=10**6)
    ids = token_ids(qwen2, TEXT[:20_000] + "\n\n" + TEXT[20_000:40_000])
    assert f"out of {len(ids)} tokens" in got.origin
    with pytest.raises(UsageError, match="no text file"):
        load(tmp_path / "b" / "empty", _make(tmp_path / "b" / "empty", qwen2))


def _make(folder: Path, source: SourceModel) -> SourceModel:
    folder.mkdir()
    return source


def test_not_utf8_is_refused_by_name(qwen2: SourceModel, file: Path) -> None:
    file.write_bytes("Größe".encode("latin-1") * 100)
    with pytest.raises(UsageError, match=r"some\.txt cannot be read"):
        load(file, qwen2)


def test_of_a_long_file_evenly_spread_slices_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("".join(f"größe {number}\n" for number in range(100_000)), encoding="utf-8")
    text = reading.read_path(path, 64 * 400)
    lines = text.splitlines()
    numbers = [int(line.removeprefix("größe ")) for line in lines]  # whole lines, or this fails
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0 and numbers[-1] == 99_999
    assert 64 * 400 * 0.8 < len(text.encode()) < 64 * 400 * 1.2
    assert max(np.diff(numbers)) < 100_000 / 64 * 1.25  # lines grow longer towards the end


def test_parquet_and_json_lines_through_the_datasets_library(
    qwen2: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    lines = TEXT.splitlines(keepends=True)
    folder = tmp_path / "rows"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": lines, "label": [1] * len(lines)}).to_parquet(
        folder / "train.parquet"
    )
    ids = token_ids(qwen2, "\n\n".join(lines))
    got = load(folder, qwen2)
    assert got.windows[0].tolist() == ids[:64] and got.windows[-1].tolist() == ids[-64:]
    assert reading.read_dataset(str(folder), "train", "text", 100).startswith(lines[0])
    with pytest.raises(UsageError, match="column 'label' holds no text"):
        reading.read_dataset(str(folder), "train", "label", 100)
    with pytest.raises(UsageError, match="split nothing"):
        reading.read_dataset(str(folder), "nothing", None, 100)


def test_two_columns_of_text_have_to_be_told_apart() -> None:
    assert reading._text_column("d", {"answer": "x", "n": 3}) == "answer"
    assert reading._text_column("d", {"question": "y", "text": "x"}) == "text"
    with pytest.raises(UsageError) as refused:
        reading._text_column("d", {"question": "y", "answer": "x"})
    assert refused.value.hint is not None and "d:SPLIT:COLUMN" in refused.value.hint


def test_the_embedded_text(qwen2: SourceModel) -> None:
    text = embedded_text()
    assert "PSF licence" not in text and "Written for edgeport" not in text, "notices are not for the model"
    for part in ("def ", "The ferry left", "Größe", "公园", "order,date,customer", "Primes: 2, 3, 5"):
        assert part in text
    assert 100_000 < len(text.encode()) < 200_000
    got = load("embedded", qwen2)
    assert got.windows.shape == (10, 64) and got.origin.startswith("embedded text: 10 windows")


def test_auto_takes_the_sources_own_text(tiny_qwen2_dir: Path, edited: Any) -> None:
    source = open_source(str(tiny_qwen2_dir))
    assert load("auto", source).origin.startswith("embedded text")
    copy = edited(tiny_qwen2_dir)
    (copy / "text").mkdir()
    (copy / "text" / "calibration.txt").write_text(TEXT, encoding="utf-8")
    got = load("auto", open_source(str(copy)))
    assert got.origin.startswith("text/calibration.txt of the source model: ") and str(copy) not in got.origin


def test_heldout_text_is_not_calibrated_on(qwen2: SourceModel, file: Path, tmp_path: Path) -> None:
    heldout = tmp_path / "heldout.txt"
    words = np.random.default_rng(0).integers(0, 10**6, 20_000)
    heldout.write_text(" ".join(f"w{word}" for word in words), encoding="utf-8")
    load(file, qwen2, tokens=10**6, heldout=heldout)
    with pytest.raises(UsageError, match="shares.*heldout.txt"):
        load(heldout, qwen2, heldout=heldout)
    file.write_text(
        TEXT[:4000] + heldout.read_text(encoding="utf-8")[3000:3600] + TEXT[4000:8000], encoding="utf-8"
    )
    with pytest.raises(UsageError, match="in one passage"):
        load(file, qwen2, tokens=10**6, n_ctx=256, heldout=heldout)


def test_names_that_are_nothing(qwen2: SourceModel) -> None:
    for wanted in ("no-such-file.txt", "./no/such", "embeded", "a/b/c"):
        with pytest.raises(UsageError, match="no calibration text"):
            load(wanted, qwen2)
