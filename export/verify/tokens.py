"""Does each container's own tokenizer cut text the way the source's tokenizer.json does?

The expected ids of a set of hard texts are computed once at export and travel in golden.json. Each container is asked
through the code its consumers use: llama.cpp's vocabulary, tokenizer.json for ONNX, openvino_tokenizers' graph,
transformers' AutoTokenizer. onnxruntime-genai reads the same tokenizer.json with a pre-tokenizer of its own, which ignores
or approximates some patterns (digits one by one, spaces before a line end): what it makes of the texts is told, but cannot
fail an export, because no file we could write would mend it.

Everything here but `check_tokens` and `golden_texts` runs in a child process.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from edgeport.errors import ArtifactError, GateFailure
from edgeport.export.verify.gguf_header import read_header
from edgeport.export.verify.openvino_tokens import NOTE, first_mismatch
from edgeport.export.verify.token_limits import LIMITS_KEY
from edgeport.export.verify.token_texts import TEXTS, special_token_texts
from edgeport.lazy import load, missing_extra
from edgeport.runtimes.isolation import run_isolated

TOKENIZERS: dict[str, str] = {
    "gguf": "edgeport.export.verify.tokens:gguf_tokens",
    "onnx": "edgeport.export.verify.tokens:json_tokens",
    "openvino": "edgeport.export.verify.tokens:openvino_tokens",
    "safetensors": "edgeport.export.verify.tokens:transformers_tokens",
    "bitsandbytes": "edgeport.export.verify.tokens:transformers_tokens",
    "onnxruntime-genai": "edgeport.export.verify.tokens:genai_tokens",
}
_SHOWN_CHARACTERS = 60

TokenizedText = tuple[str, tuple[int, ...]]


def golden_texts(tokenizer_directory: Path) -> tuple[TokenizedText, ...]:
    """The texts and their ids by `tokenizer_directory`/tokenizer.json, special tokens included.

    What llama.cpp is known not to do is spared (token_limits), because these texts are every container's.
    """
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    from edgeport.export.verify.token_limits import comparable

    tokenizer = Tokenizer.from_file(str(tokenizer_directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    document = json.loads((tokenizer_directory / "tokenizer.json").read_text(encoding="utf-8"))
    added = [token["content"] for token in document.get("added_tokens", ())]
    texts = comparable(document, [*TEXTS, *special_token_texts(added)])
    encodings = tokenizer.encode_batch(texts, add_special_tokens=True)
    return tuple((text, tuple(encoding.ids)) for text, encoding in zip(texts, encodings, strict=True))


def check_tokens(format_name: str, entry_point: Path, expected: Sequence[TokenizedText]) -> str:
    """Compare a container's tokenizer with the expected ids. Raises GateFailure naming the first line that differs."""
    if not expected:
        raise GateFailure("golden.json holds no texts, so nothing can be said of the tokenizer")
    differences = _differences(format_name, entry_point, expected)
    if differences:
        raise GateFailure(f"the tokenizer cuts {differences[0]}")
    told = f"{len(expected)} texts, {sum(len(ids) for _, ids in expected)} tokens equal"
    if format_name == "gguf" and (limits := read_header(entry_point).metadata.get(LIMITS_KEY)):
        return f"{told}; llama.cpp {limits}"
    if format_name == "openvino":
        if _without_models(entry_point.parent):
            reason = (entry_point.parent / NOTE).read_text(encoding="utf-8").splitlines()[1]
            return f"{told} by tokenizer.json; no openvino_tokenizer.xml, so OpenVINO GenAI does not open the folder: {reason}"
        if (mismatch := first_mismatch(entry_point.parent)) is not None:
            raise GateFailure(f"the converted tokenizer differs from tokenizer.json: {mismatch}")
    if format_name == "onnx" and importlib.util.find_spec("onnxruntime_genai") is not None:
        own = _differences("onnxruntime-genai", entry_point, expected)
        told += (
            f"; onnxruntime-genai's own tokenizer differs on {len(own)}, first {own[0]}"
            if own
            else " (onnxruntime-genai too)"
        )
    return told


def _without_models(folder: Path) -> bool:
    """Left out on purpose, which a note says; a file that is merely missing is an error."""
    return (folder / NOTE).is_file() and not (folder / "openvino_tokenizer.xml").exists()


def _differences(tokenizer: str, entry_point: Path, expected: Sequence[TokenizedText]) -> list[str]:
    arguments = {
        "tokenizer": tokenizer,
        "entry_point": str(entry_point),
        "texts": [text for text, _ in expected],
    }
    found = run_isolated("edgeport.export.verify.tokens:container_tokens", arguments)
    lines = []
    for number, ((text, want), got) in enumerate(zip(expected, found, strict=True), start=1):
        if list(want) != got:
            pairs = enumerate(zip(want, got, strict=False))
            at = next((at for at, (left, right) in pairs if left != right), min(len(want), len(got)))
            shown = f"{text[:_SHOWN_CHARACTERS]!r} at token {at}: expected {list(want[at : at + 3])}, got {got[at : at + 3]}"
            lines.append(f"line {number} differently: {shown}")
    return lines


def container_tokens(tokenizer: str, entry_point: str, texts: list[str]) -> list[list[int]]:
    """In the child: token ids of each text by one entry of TOKENIZERS."""
    tokenize = cast(Callable[[Path, Sequence[str]], list[list[int]]], load(TOKENIZERS[tokenizer]))
    return tokenize(Path(entry_point), texts)


def gguf_tokens(entry_point: Path, texts: Sequence[str]) -> list[list[int]]:
    from edgeport.export.verify.token_parity import engine_vocabulary

    with missing_extra("gguf", purpose="llama.cpp's tokenizer"):
        return engine_vocabulary(str(entry_point), texts)["tokens"]


def json_tokens(entry_point: Path, texts: Sequence[str]) -> list[list[int]]:
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    path = entry_point.parent / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise ArtifactError(f"{path} cannot be opened: {error}") from error
    return [tokenizer.encode(text).ids for text in texts]


def genai_tokens(entry_point: Path, texts: Sequence[str]) -> list[list[int]]:
    with missing_extra("engines", purpose="onnxruntime-genai's tokenizer"):
        import onnxruntime_genai
    try:
        tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(entry_point.parent)))
    except RuntimeError as error:
        raise ArtifactError(f"onnxruntime-genai does not open {entry_point.parent}: {error}") from error
    return [[int(token) for token in tokenizer.encode(text)] for text in texts]


def openvino_tokens(entry_point: Path, texts: Sequence[str]) -> list[list[int]]:
    if _without_models(entry_point.parent):
        return json_tokens(entry_point, texts)
    with missing_extra("export", purpose="openvino_tokenizers"):
        import openvino
        import openvino_tokenizers  # noqa: F401 - registers the operators of the tokenizer graph
    path = entry_point.parent / "openvino_tokenizer.xml"
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU")
    except RuntimeError as error:
        raise ArtifactError(f"{path} cannot be opened: {error}") from error
    return [[int(token) for token in compiled([text])["input_ids"][0]] for text in texts]


def transformers_tokens(entry_point: Path, texts: Sequence[str]) -> list[list[int]]:
    with missing_extra("eval", purpose="transformers' tokenizer"):
        from transformers import AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry_point.parent)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"transformers does not open the tokenizer in {entry_point.parent}: {error}"
        ) from error
    return [list(tokenizer(text)["input_ids"]) for text in texts]
