"""GGUF files through an inspection: facts as gguf's own reader has them, and verdicts as llama.cpp's loader has them."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from edgeport.errors import UsageError
from edgeport.runtimes.engines import unavailable_because
from edgeport.runtimes.inspect import llama_names
from edgeport.runtimes.inspect.gguf import inspect_gguf
from edgeport.runtimes.inspect.open import inspect_path
from edgeport.runtimes.isolation import run_isolated

Change = Callable[[Path, Path], None]
Text, Number, Array = gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32, gguf.GGUFValueType.ARRAY
TENSOR = b"blk.1.ffn_down.weight"


@pytest.fixture(scope="module")
def model(packed_dir: Path) -> Path:
    return next((packed_dir / "gguf").glob("*.gguf"))


def metadata(*removed: str, **changed: tuple[Any, Any]) -> Change:
    """A copy by gguf-py with keys removed and set; `__` stands for a dot."""

    def write(source: Path, target: Path) -> None:
        reader = gguf.GGUFReader(source)
        architecture = reader.fields["general.architecture"].contents()
        values = {key.replace("__", "."): MetadataDetails(*value) for key, value in changed.items()}
        name = values.pop("general.architecture", MetadataDetails(Text, architecture)).value
        writer = gguf.GGUFWriter(target, name, use_temp_file=False)
        copy_with_new_metadata(reader, writer, values, list(removed))

    return write


def tensor_field(name: bytes, field: int, value: bytes) -> Change:
    """Bytes of a tensor's entry in the header set; field 0 is the type, 4 the offset, both behind the two sizes."""

    def write(source: Path, target: Path) -> None:
        content = bytearray(source.read_bytes())
        at = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name) + 4 + 16 + field
        content[at : at + len(value)] = value
        target.write_bytes(content)

    return write


def content(change: Callable[[bytes], bytes]) -> Change:
    return lambda source, target: target.write_bytes(change(source.read_bytes())) and None


def with_repeated_head(source: Path, target: Path) -> None:
    """The embedding stored a second time as the output head."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == Array else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    table = next(item for item in reader.tensors if item.name == "token_embd.weight")
    for item in reader.tensors:
        if item.name != "output.weight":
            writer.add_tensor(item.name, item.data, raw_dtype=item.tensor_type)
    writer.add_tensor("output.weight", table.data, raw_dtype=table.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


MANY = [f"token {index}" for index in range(700)]
REFUSED: Mapping[str, tuple[Change, str]] = {
    "architecture": (metadata(general__architecture=(Text, "qwen9")), "architecture 'qwen9' is unknown"),
    "tokenizer": (metadata(tokenizer__ggml__model=(Text, "klingon")), "tokenizer.ggml.model is 'klingon'"),
    "pre-tokenizer": (metadata(tokenizer__ggml__pre=(Text, "klingon")), "tokenizer.ggml.pre is 'klingon'"),
    "no context": (metadata("qwen2.context_length"), "there is no qwen2.context_length"),
    "tokens": (metadata(tokenizer__ggml__tokens=(Array, MANY, "", Text)), "700 tokens, the embedding 512 rows"),
    "cut": (content(lambda file: file[: len(file) * 3 // 4]), "tensors end at"),
    "version": (content(lambda file: file[:4] + struct.pack("<I", 4) + file[8:]), "GGUF version 4"),
    "type": (tensor_field(TENSOR, 0, struct.pack("<I", 31)), "type 31"),
    "offset": (tensor_field(TENSOR, 4, struct.pack("<Q", 32)), "overlaps another"),
}  # fmt: skip
FOUND: Mapping[str, tuple[Change, str, str]] = {
    "template": (metadata("tokenizer.chat_template"), "warning", "no chat template"),
    "end": (metadata("tokenizer.ggml.eos_token_id"), "error", "no tokenizer.ggml.eos_token_id"),
    "end beyond": (metadata(tokenizer__ggml__eos_token_id=(Number, 512)), "error", "eos_token_id is 512"),
    "no pre": (metadata("tokenizer.ggml.pre"), "error", "no tokenizer.ggml.pre"),
    "default pre": (metadata(tokenizer__ggml__pre=(Text, "default")), "warning", "'default'"),
    "context": (metadata(qwen2__context_length=(Number, 0)), "error", "context_length is 0"),
    "head": (with_repeated_head, "warning", "repeats the embedding"),
}


@pytest.fixture(scope="module")
def changed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Every damaged or odd copy, by its name above."""
    folder = tmp_path_factory.mktemp("gguf")
    found = {}
    for name, change in ({key: value[0] for key, value in (*REFUSED.items(), *FOUND.items())}).items():
        found[name] = folder / f"{name.replace(' ', '-')}.gguf"
        change(model, found[name])
    return found


def test_facts_are_those_of_ggufs_reader(model: Path, tiny_qwen2_dir: Path) -> None:
    found, reader = inspect_path(model), gguf.GGUFReader(model)
    assert found.parameters == sum(int(item.n_elements) for item in reader.tensors)
    assert found.size_bytes == sum(int(item.n_bytes) for item in reader.tensors)
    kinds = {item.type: (item.tensors, item.size_bytes) for item in found.tensor_types}
    for kind, (count, size) in kinds.items():
        same = [item for item in reader.tensors if item.tensor_type.name == kind]
        assert (count, size) == (len(same), sum(int(item.n_bytes) for item in same))
    assert sum(count for count, _ in kinds.values()) == len(reader.tensors)
    shapes = found.shapes
    assert (shapes.layers, shapes.hidden_size, shapes.heads, shapes.kv_heads) == (2, 64, 4, 2)
    assert (shapes.head_dim, shapes.intermediate_size) == (16, 128)
    assert (shapes.vocab_size, shapes.context_length) == (512, 256)
    assert found.family == "qwen2" and found.chat_template
    assert found.tokenizer is not None and found.tokenizer.size == 512
    assert found.problems == () and found.engines[0].accepted
    assert inspect_path(model.parent) == found


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_refuses_is_told(name: str, changed: Mapping[str, Path]) -> None:
    found = inspect_gguf(changed[name])
    told = [problem for problem in found.problems if problem.severity == "error"]
    assert any(REFUSED[name][1] in problem.what and problem.cure for problem in told)
    assert not found.engines[0].accepted and found.has_errors


@pytest.mark.parametrize("name", FOUND)
def test_what_llama_cpp_takes_is_accepted_and_told(name: str, changed: Mapping[str, Path]) -> None:
    _, severity, text = FOUND[name]
    found = inspect_gguf(changed[name])
    assert [problem.severity for problem in found.problems if text in problem.what] == [severity]
    assert len(found.problems) == 1 and found.engines[0].accepted


def llama_answers(files: list[str]) -> list[str]:
    """In a child: what llama.cpp says of each file, empty for one that it loads."""
    from edgeport.errors import EdgeportError
    from edgeport.runtimes import llama_library

    answers = []
    for file in files:
        try:
            llama_library.load_model(Path(file))
            answers.append("")
        except EdgeportError as error:
            answers.append(error.message)
    return answers


@pytest.mark.skipif(unavailable_because("gguf") is not None, reason="no llama.cpp")
def test_llama_cpp_agrees_with_each_verdict(model: Path, changed: Mapping[str, Path]) -> None:
    files = {"as it was": model, **changed}
    told = run_isolated(f"{__name__}:llama_answers", {"files": [str(file) for file in files.values()]})
    answers = dict(zip(files, told, strict=True))
    assert {name for name, answer in answers.items() if answer} == set(REFUSED), answers


def test_the_names_are_in_the_library_that_is_installed() -> None:
    """A name that llama.cpp knows stands in its library as a text of its own."""
    llama_cpp = pytest.importorskip("llama_cpp")
    libraries = sorted(Path(llama_cpp.__file__).parent.glob("lib/libllama.*"))
    if not libraries:
        pytest.skip("the library lies elsewhere")
    texts = b"\0" + libraries[0].read_bytes()
    for name in llama_names.ARCHITECTURES:  # short ones may be kept within another text's end
        assert name.encode() + b"\0" in texts, name
    known = set(gguf.MODEL_ARCH_NAMES.values()) - {"clip", "mmproj"}
    assert len(known & llama_names.ARCHITECTURES) > 0.9 * len(known)


def test_a_missing_part_is_named(model: Path, tmp_path: Path) -> None:
    part = tmp_path / "m-00001-of-00002.gguf"
    shutil.copy(model, part)
    found = inspect_path(part)
    assert "m-00002-of-00002.gguf is missing" in found.problems[0].what and not found.engines[0].accepted


def test_many_models_in_a_folder_ask_for_a_name(model: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(model, tmp_path / name)
    with pytest.raises(UsageError, match=r"2 models: a\.gguf, b\.gguf"):
        inspect_path(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"GGUF", b"GGML" + bytes(100), b"GGUF" + bytes(100)])
def test_what_is_no_gguf_cannot_be_read(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(damage)
    with pytest.raises(UsageError):
        inspect_path(path)


@pytest.mark.parametrize("kind", sorted(gguf.GGML_QUANT_SIZES, key=int), ids=lambda kind: kind.name)
def test_every_quantization_is_read(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    if kind.name == "Q8_1":  # never in a file; gguf-py has an older layout of it
        return
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((7, 2 * block_bytes), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = inspect_gguf(tmp_path / "x.gguf")
    assert (found.parameters, found.size_bytes) == (7 * 2 * block, 7 * 2 * block_bytes)
    assert found.tensor_types[0].type == kind.name
