"""Model folders of transformers: plain, sharded, or packed by compressed-tensors, AWQ, GPTQ, bitsandbytes and their like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeport.devices.safetensors_header import INDEX_NAME, LONGEST_NAME, read_safetensors_header
from edgeport.errors import UsageError
from edgeport.runtimes.inspect.document import (
    Inspection,
    Problem,
    bits_per_weight,
    error,
    tensor_types,
    verdict,
    warning,
)
from edgeport.runtimes.inspect.equal_bytes import StoredAt, are_equal
from edgeport.runtimes.inspect.safetensors_weights import FolderTensor, parameters, quantization_label
from edgeport.runtimes.inspect.side_files import (
    CONFIG,
    TOKENIZER,
    mapping,
    read_object,
    read_side_files,
    shapes_of_config,
)
from edgeport.runtimes.inspect.tokenizer_files import (
    decoder_problems,
    has_chat_template,
    token_ids,
    tokenizer_facts,
    vocabulary_problems,
)

ENGINE = "transformers"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
EMBEDDINGS = (
    "model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "transformer.wte.weight", "wte.weight",
    "model.decoder.embed_tokens.weight", "embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight",
    "roberta.embeddings.word_embeddings.weight", "distilbert.embeddings.word_embeddings.weight",
)  # fmt: skip
HEADS = ("lm_head.weight", "output.weight")
NEEDS: Mapping[str, str] = {
    "compressed-tensors": "compressed-tensors",
    "awq": "gptqmodel",
    "gptq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "fp8": "a GPU, or a dequantized copy",
    "mxfp4": "kernels, or a dequantized copy",
}
"""Package that transformers opens a quant_method with."""


def inspect_safetensors(path: Path) -> Inspection:
    """A folder, or a file in it. Raises UsageError where config.json or a header cannot be read."""
    folder = path if path.is_dir() else path.parent
    files = read_side_files(folder)
    if files.has(CONFIG) and not files.get(CONFIG):
        raise UsageError(
            files.problems[0].what if files.problems else f"{CONFIG} is empty", hint="fetch it again"
        )
    tensors, refused = _tensors(folder)
    config = files.config()
    shapes, ids = shapes_of_config(config), token_ids(files.get(TOKENIZER))
    is_decoder = _is_decoder(config)
    refused += [*_weight_problems(tensors), *_config_problems(config, tensors)]
    problems = [*refused, *files.problems, *_own_code_problems(config), *_tied_problems(config, tensors)]
    rows = _embedding_rows(tensors) or shapes.vocab_size
    problems += decoder_problems(files, ids, rows) if is_decoder else vocabulary_problems(ids, rows)
    stored = [(item.stored.dtype, item.stored.size_bytes) for item in tensors.values()]
    size_bytes = sum(size for _, size in stored)
    count = parameters(tensors, mapping(config.get("quantization_config")))
    family = config.get("model_type")
    return Inspection(
        kind="safetensors",
        name=folder.resolve().name,
        family=family[:80] if isinstance(family, str) else None,
        parameters=count,
        shapes=shapes,
        size_bytes=size_bytes,
        bits_per_weight=bits_per_weight(size_bytes, count),
        tensor_types=tensor_types(stored),
        quantization=quantization_label(config),
        tokenizer=tokenizer_facts(files, ids),
        chat_template=has_chat_template(files) if is_decoder else None,
        made_by=_made_by(config),
        engines=(verdict(ENGINE, _refusals(refused, config), _note(config)),),
        problems=tuple(problems),
    )


def _is_decoder(config: Mapping[str, Any]) -> bool:
    named = config.get("architectures")
    names = [str(name) for name in named[:8]] if isinstance(named, list) else []
    return any("CausalLM" in name or "LMHead" in name or "ConditionalGeneration" in name for name in names)


def _tensors(folder: Path) -> tuple[dict[str, FolderTensor], list[Problem]]:
    """Every tensor that is there, by name, and what is missing."""
    problems = list(_pickled_problems(folder))
    named, index_problems = _indexed(folder)
    problems += index_problems
    paths = (
        [folder / name for name in sorted(set(named.values()))]
        if named
        else sorted(folder.glob("*.safetensors"))
    )
    found: dict[str, FolderTensor] = {}
    for path in paths:
        if path.is_file():
            for stored in read_safetensors_header(path, whole=False):
                found[stored.name] = FolderTensor(path, stored)
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        problems.append(
            error(
                f"{absent[0]} is missing: {len(absent)} of {len(paths)} shards that {INDEX_NAME} names are not here",
                "download all shards into this folder",
            )
        )
    lost = [name for name, file in named.items() if name not in found and file not in absent]
    if lost:
        problems.append(
            error(
                f"{INDEX_NAME} names {lost[0]!r:.80}, which its file does not hold ({len(lost)} in all)",
                "fetch the index and the shards of one revision",
            )
        )
    return found, problems


def _indexed(folder: Path) -> tuple[dict[str, str], list[Problem]]:
    """Tensor name -> shard, empty without an index."""
    if not (folder / INDEX_NAME).is_file():
        return {}, []
    document = read_object(folder / INDEX_NAME)
    places = document if isinstance(document, str) else document.get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and Path(file).name == file and len(file) <= LONGEST_NAME
        for file in places.values()
    ):
        what = (
            f"{INDEX_NAME} {document}"
            if isinstance(document, str)
            else f"{INDEX_NAME} has no usable weight_map"
        )
        return {}, [error(what, "fetch it again, or delete it where there is one file only")]
    return places, []


def _pickled_problems(folder: Path) -> Iterator[Problem]:
    if any(folder.glob("*.safetensors")) or (folder / INDEX_NAME).is_file():
        return
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        yield error(
            f"there are pickled weights only ({', '.join(pickled[:3])}): opening one runs whatever code it holds",
            "fetch the model.safetensors of the same repository, or convert in a sandbox with save_pretrained()",
        )
    else:
        yield error(
            "there are no weights: no *.safetensors in the folder", "copy the weights beside config.json"
        )


def _weight_problems(tensors: Mapping[str, FolderTensor]) -> Iterator[Problem]:
    by_file: dict[Path, list[FolderTensor]] = {}
    for item in tensors.values():
        by_file.setdefault(item.path, []).append(item)
    for path, items in by_file.items():
        file_bytes, last = path.stat().st_size, max(item.stored.end for item in items)
        beyond = sum(item.stored.end > file_bytes for item in items)
        if beyond:
            yield error(
                f"{path.name} has {file_bytes} bytes, its tensors end at {last}: {beyond} of {len(items)} are not whole",
                "the download or the copy was cut short: fetch the file again",
            )
        ordered = sorted(
            (item.stored for item in items if item.stored.size_bytes), key=lambda item: item.begin
        )
        for before, after in zip(ordered, ordered[1:], strict=False):
            if after.begin < before.end:
                yield error(
                    f"{path.name}: tensors {before.name!r:.60} and {after.name!r:.60} overlap",
                    "save the model again: safetensors allows no tensor inside another",
                )
                break


def _config_problems(config: Mapping[str, Any], tensors: Mapping[str, FolderTensor]) -> Iterator[Problem]:
    shapes = shapes_of_config(config)
    name = next((name for name in EMBEDDINGS if name in tensors), None)
    table = tensors[name].stored.shape if name is not None else ()
    expected = (shapes.vocab_size, shapes.hidden_size)
    if len(table) == 2 and None not in expected and table != expected:
        yield error(
            f"{name} is {list(table)}, config.json says {list(expected)}",
            "take config.json and weights of one revision",
        )
    if shapes.context_length == 0:
        yield error("max_position_embeddings is 0: there is no room for a prompt", "set it in config.json")


def _own_code_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    if config.get("auto_map"):
        yield warning(
            "config.json has an auto_map: the model brings code of its own, which edgeport never runs",
            "export works where the family is one of edgeport's own; else take a model that transformers knows",
        )


def _tied_problems(config: Mapping[str, Any], tensors: Mapping[str, FolderTensor]) -> Iterator[Problem]:
    table, head = (
        next((tensors[name] for name in names if name in tensors), None) for names in (EMBEDDINGS, HEADS)
    )
    if table is None or head is None:
        return
    places = [StoredAt(item.path, item.stored.begin, item.stored.size_bytes) for item in (table, head)]
    if config.get("tie_word_embeddings") is True or are_equal(*places):
        yield warning(
            f"the output head repeats the embedding: {head.stored.size_bytes} bytes are stored twice",
            "set tie_word_embeddings in config.json and leave the head's tensor out; edgeport does so in an export",
        )


def _embedding_rows(tensors: Mapping[str, FolderTensor]) -> int | None:
    shapes = (tensors[name].stored.shape for name in EMBEDDINGS if name in tensors)
    return next((shape[0] for shape in shapes if shape), None)


def _refusals(problems: list[Problem], config: Mapping[str, Any]) -> Iterator[str]:
    yield from (problem.what for problem in problems if problem.severity == "error")
    method = mapping(config.get("quantization_config")).get("quant_method")
    if config.get("quantization_config") and method not in NEEDS:
        yield f"quant_method {method!r:.40} is none that is known here"


def _note(config: Mapping[str, Any]) -> str:
    method = mapping(config.get("quantization_config")).get("quant_method")
    return f"with {NEEDS[method]}" if isinstance(method, str) and method in NEEDS else ""


def _made_by(config: Mapping[str, Any]) -> str | None:
    version = config.get("transformers_version")
    return f"transformers {version[:40]}" if isinstance(version, str) else None
