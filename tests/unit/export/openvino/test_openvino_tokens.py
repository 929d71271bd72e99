"""The converted tokenizer cuts text as tokenizer.json does, and the check that says so can say no."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeport.errors import ArtifactError
from edgeport.export.formats.openvino_tokenizer import TokenizerConversion, leave_out
from edgeport.export.verify.openvino_tokens import NOTE, first_mismatch
from edgeport.export.verify.tokens import check_tokens, golden_texts


def test_converted_tokenizers_agree(int4_container: Path, qwen2_container: Path) -> None:
    lines = ["def area(self) -> float:\n\treturn 1", "<|im_start|>user\nnaïve 你好<|im_end|>\n"]
    assert first_mismatch(int4_container, lines) is None
    assert first_mismatch(qwen2_container, lines) is None


@pytest.fixture
def copied(int4_container: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "container"
    shutil.copytree(int4_container, directory)
    return directory


def test_another_merge_is_found(copied: Path) -> None:
    document = json.loads((copied / "tokenizer.json").read_text())
    del document["model"]["merges"][3]
    (copied / "tokenizer.json").write_text(json.dumps(document))
    found = first_mismatch(copied)
    assert found is not None and found.what == "ids"
    assert "at token" in str(found)


def test_another_pre_tokenizer_is_found(copied: Path, qwen2_container: Path) -> None:
    for name in ("openvino_tokenizer.xml", "openvino_tokenizer.bin"):
        shutil.copyfile(qwen2_container / name, copied / name)
    found = first_mismatch(copied)
    assert found is not None and found.what == "ids"


def test_another_detokenizer_is_found(copied: Path) -> None:
    content = bytearray((copied / "openvino_detokenizer.bin").read_bytes())
    at = content.index(b"self")
    content[at : at + 4] = b"SELF"
    (copied / "openvino_detokenizer.bin").write_bytes(content)
    found = first_mismatch(copied, ["class Shape:\n    def area(self) -> float:\n"])
    assert found is not None and found.what == "text"


def test_missing_file_is_named(copied: Path) -> None:
    (copied / "openvino_detokenizer.bin").unlink()
    with pytest.raises(ArtifactError, match=r"openvino_detokenizer\.bin is missing"):
        first_mismatch(copied)


def test_tokenizer_that_cannot_be_converted_is_left_out(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(tiny_llama_dir, source)
    target.mkdir()
    document = json.loads((source / "tokenizer.json").read_text())
    document["pre_tokenizer"] = {"type": "UnicodeScripts"}
    (source / "tokenizer.json").write_text(json.dumps(document))
    with TokenizerConversion(source, target):
        pass
    assert [path.name for path in target.iterdir()] == [NOTE]
    assert "cannot convert it (exit code 1)" in (target / NOTE).read_text()
    assert "UnicodeScripts" in (target / NOTE).read_text()


def test_tokenizer_that_is_converted_into_another_is_left_out(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """A text to be replaced reads as a regular expression in openvino_tokenizers: a full stop is every character there."""
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(tiny_llama_dir, source)
    target.mkdir()
    document = json.loads((source / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Replace", "pattern": {"String": "."}, "content": "!"}
    (source / "tokenizer.json").write_text(json.dumps(document))
    with TokenizerConversion(source, target):
        pass
    assert [path.name for path in target.iterdir()] == [NOTE]
    assert "openvino_tokenizers differs from tokenizer.json" in (target / NOTE).read_text()


def test_a_container_without_the_models_says_so(copied: Path) -> None:
    """With a note tokenizer.json is the tokenizer; without one something is missing."""
    expected = golden_texts(copied)
    entry_point = copied / "openvino_model.xml"
    assert check_tokens("openvino", entry_point, expected).endswith("tokens equal")
    leave_out(copied, "openvino_tokenizers differs from tokenizer.json: ids of 'x': expected a, got b")
    told = check_tokens("openvino", entry_point, expected)
    assert "no openvino_tokenizer.xml" in told and told.endswith("ids of 'x': expected a, got b")
    (copied / NOTE).unlink()
    with pytest.raises(ArtifactError, match=r"openvino_tokenizer\.xml cannot be opened"):
        check_tokens("openvino", entry_point, expected)


def test_conversion_is_stopped_when_packing_fails(tiny_llama_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), TokenizerConversion(tiny_llama_dir, tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / "openvino_detokenizer.xml").exists()
