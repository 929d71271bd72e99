"""ONNX models of any exporter: onnxruntime-genai's builder, optimum, torch, edgeport; decoders and encoders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError
from edgeport.runtimes.inspect.document import (
    EngineVerdict,
    Inspection,
    Problem,
    Shapes,
    bits_per_weight,
    error,
    tensor_types,
    verdict,
)
from edgeport.runtimes.inspect.onnx_header import OnnxHeader, read_onnx_header
from edgeport.runtimes.inspect.onnx_problems import load_problems, speed_problems, tied_problems
from edgeport.runtimes.inspect.onnx_weights import embedding_rows, graph_of, parameters, stored_once
from edgeport.runtimes.inspect.side_files import (
    GENAI,
    TOKENIZER,
    SideFiles,
    first_known,
    mapping,
    read_side_files,
    shapes_of_config,
    shapes_of_genai,
)
from edgeport.runtimes.inspect.tokenizer_files import (
    decoder_problems,
    has_chat_template,
    token_ids,
    tokenizer_facts,
    vocabulary_problems,
)

ENGINE, GENAI_ENGINE = "ONNX Runtime", "onnxruntime-genai"
USUAL_NAME = "model.onnx"
_CACHE = re.compile(r"past_key_values\.(\d+)\.(?:key|value)$")
_DECODER_INPUTS = ("input_ids", "attention_mask", "position_ids")
_ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def inspect_onnx(path: Path) -> Inspection:
    """A folder or an .onnx file. Raises UsageError for what is no ONNX model or is damaged."""
    folder = path if path.is_dir() else path.parent
    files = read_side_files(folder)
    file = onnx_file(path, files)
    header = read_onnx_header(file)
    graph, is_decoder = graph_of(header), is_decoder_graph(header, files)
    shapes = first_known(_graph_shapes(header), shapes_of_genai(files.genai_model()), _config_shapes(files))
    ids = token_ids(files.get(TOKENIZER))
    rows = shapes.vocab_size if is_decoder else embedding_rows(graph)
    refused = list(load_problems(file, header))
    problems = [*refused, *files.problems, *_context_problems(shapes, is_decoder)]
    problems += speed_problems(graph)
    if is_decoder:
        problems += tied_problems(file, graph, files.config())
        problems += decoder_problems(files, ids, rows)
    else:
        problems += vocabulary_problems(ids, rows)
    stored = [(item.type, item.size_bytes) for item in stored_once(header)]
    size_bytes = sum(size for _, size in stored)
    count = parameters(graph)
    return Inspection(
        kind="onnx",
        name=folder.resolve().name if path.is_dir() else path.stem,
        family=_family(files),
        parameters=count,
        shapes=shapes,
        size_bytes=size_bytes,
        bits_per_weight=bits_per_weight(size_bytes, count),
        tensor_types=tensor_types(stored),
        quantization=_quantization(header),
        tokenizer=tokenizer_facts(files, ids),
        chat_template=has_chat_template(files) if is_decoder else None,
        made_by=header.producer or None,
        engines=_engines(header, files, shapes, [item.what for item in refused], is_decoder=is_decoder),
        problems=tuple(problems),
    )


def onnx_file(path: Path, files: SideFiles) -> Path:
    """The file itself, the one genai_config.json names, the one of the usual name, or the only one of a folder."""
    if path.is_file():
        return path
    named = mapping(files.genai_model().get("decoder")).get("filename")
    names = [named] if isinstance(named, str) and named else [USUAL_NAME]
    found = [path / name for name in names if files.has(name)] or sorted(path.glob("*.onnx"))
    if not found:
        raise UsageError(f"there is no {names[0]} in {path}", hint="copy the whole folder")
    if len(found) > 1 and found[0].name not in names:
        shown = ", ".join(item.name for item in found[:8])
        raise UsageError(f"{path} holds {len(found)} models: {shown}", hint="name the file itself")
    return found[0]


def is_decoder_graph(header: OnnxHeader, files: SideFiles) -> bool:
    """A model that continues text: it has a key-value cache, or its configuration says so."""
    if files.has(GENAI) or any(name.startswith("past") for name in header.inputs):
        return True
    return any("CausalLM" in str(name) for name in _architectures(files.config()))


def _architectures(config: Mapping[str, Any]) -> Sequence[Any]:
    named = config.get("architectures")
    return named[:8] if isinstance(named, list) else ()


def _family(files: SideFiles) -> str | None:
    named = files.get("config.json").get("model_type") or files.genai_model().get("type")
    return named[:80] if isinstance(named, str) else None


def _config_shapes(files: SideFiles) -> Shapes:
    return shapes_of_config(files.config())


def _graph_shapes(header: OnnxHeader) -> Shapes:
    """What the inputs of the key-value cache and `logits` tell."""
    layers = {found.group(1) for name in header.inputs if (found := _CACHE.match(name))}
    cache = next((shape for name, shape in header.inputs.items() if _CACHE.match(name)), ())
    logits = header.outputs.get("logits", ())
    return Shapes(
        layers=len(layers) or None,
        kv_heads=cache[1] if len(cache) == 4 else None,
        head_dim=cache[3] if len(cache) == 4 else None,
        vocab_size=logits[2] if len(logits) == 3 else None,
    )


def _context_problems(shapes: Shapes, is_decoder: bool) -> Iterator[Problem]:
    if is_decoder and shapes.context_length == 0:
        yield error(
            "the context length is 0: there is no room for a prompt",
            "set context_length in genai_config.json, or max_position_embeddings in config.json",
        )


def _quantization(header: OnnxHeader) -> str | None:
    """The packed products with their bits and block, else the quantized operators."""
    packed = {
        (node.attributes.get("bits", 4), node.attributes.get("block_size", 0))
        for node in header.nodes
        if node.operator == "MatMulNBits"
    }
    if packed:
        return ", ".join(f"MatMulNBits {bits} bit in blocks of {block}" for bits, block in sorted(packed)[:4])
    dynamic = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention")
    if any(node.operator in dynamic for node in header.nodes):
        return "INT8 with dynamic activations"
    is_qdq = any(node.operator == "DequantizeLinear" for node in header.nodes)
    return "quantize/dequantize pairs (QDQ)" if is_qdq else None


def _engines(
    header: OnnxHeader, files: SideFiles, shapes: Shapes, refused: list[str], *, is_decoder: bool
) -> tuple[EngineVerdict, ...]:
    if not is_decoder:
        foreign = [name for name in header.inputs if name not in _ENCODER_INPUTS]
        why = [f"its inputs are not an encoder's: {', '.join(foreign[:4])}"] if foreign else []
        return (verdict(ENGINE, [*refused, *why], "for embeddings or classes"),)
    return (
        verdict(ENGINE, [*refused, *_decoder_refusals(header, files, shapes)]),
        verdict(GENAI_ENGINE, [*refused, *_genai_refusals(files)]),
    )


def _decoder_refusals(header: OnnxHeader, files: SideFiles, shapes: Shapes) -> Iterator[str]:
    """What edgeport's adapter needs to run a decoder."""
    inputs = set(header.inputs) - set(header.initializers)
    foreign = sorted(name for name in inputs if name not in _DECODER_INPUTS and not _CACHE.match(name))
    if "use_cache_branch" in inputs:
        yield "it is optimum's merged decoder with use_cache_branch; export it without merging"
    elif foreign:
        yield f"its inputs are not those of a decoder: {', '.join(foreign[:4])}"
    elif not any(_CACHE.match(name) for name in inputs):
        yield "it has no key-value cache; export it with one (optimum: --task text-generation-with-past)"
    if "logits" not in header.outputs:
        yield "it has no output named logits"
    if shapes.kv_heads is None or shapes.head_dim is None:
        yield "neither the graph nor genai_config.json or config.json beside it says how large the cache is"
    if shapes.vocab_size is None:
        yield "neither the graph nor genai_config.json or config.json beside it says how many tokens there are"
    if not files.has(TOKENIZER):
        yield "there is no tokenizer.json beside it"


def _genai_refusals(files: SideFiles) -> Iterator[str]:
    if not files.has(GENAI):
        yield f"there is no {GENAI} beside it"
    named = mapping(files.genai_model().get("decoder")).get("filename")
    if isinstance(named, str) and not files.has(named):
        yield f"{GENAI} names {named}, which is not there"
    if not files.has(TOKENIZER):
        yield "there is no tokenizer.json beside it"
