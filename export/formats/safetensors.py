"""Packed safetensors in compressed-tensors' `pack-quantized` layout, as transformers and vLLM open it.

Per quantized module: weight_packed int32 [out_features, in_features * bits / 32] (offset-binary, low bits first),
weight_scale bfloat16 [out_features, in_features / block] (grid scales are exact in it), weight_shape int64 [2].
Float modules keep `weight`. The little-endian int32 words are the checkpoint's bytes, so packing is a copy.

A quantized embedding, and a head tied to it, is stored dequantized in float16, which holds it exactly: transformers cannot
load a packed nn.Embedding, vLLM has no kernel for one, and both tie only plain weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgeport.export.checkpoint import Checkpoint, TensorRecord
from edgeport.export.families.decoder import EMBEDDING, HEAD, DecoderSpec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.tokenizer_files import copy_tokenizer
from edgeport.export.safetensors_file import SafetensorsWriter, TensorPlan
from edgeport.scheme import TensorScheme

_FLOAT_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_SHARD_BYTES = 4 << 30


class SafetensorsFormat:
    name = "safetensors"

    def reasons_against(self, spec: DecoderSpec, schemes: Sequence[TensorScheme], source: Path) -> list[str]:
        return []

    def write(self, checkpoint: Checkpoint, directory: Path, options: WriteOptions) -> Path:
        shards = _shards(checkpoint)
        index: dict[str, str] = {}
        with options.progress.stage("pack safetensors", total=len(checkpoint.records)) as stage:
            for number, shard in enumerate(shards, start=1):
                name = (
                    "model.safetensors"
                    if len(shards) == 1
                    else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                )
                plan = [entry for record in shard for entry in _plan(record)]
                index.update({entry.name: name for entry in plan})
                with SafetensorsWriter(directory / name, plan) as writer:
                    for record in shard:
                        _write(writer, checkpoint, record.name)
                        stage.advance(1)
        if len(shards) > 1:
            document = {"metadata": {}, "weight_map": index}
            (directory / "model.safetensors.index.json").write_text(
                json.dumps(document, indent=2) + "\n", encoding="utf-8"
            )
        _write_config(checkpoint, directory)
        copy_tokenizer(checkpoint.source_directory, directory)
        return directory / "config.json"


def _is_packed(record: TensorRecord) -> bool:
    return record.scheme.is_quantized and record.name != EMBEDDING


def _plan(record: TensorRecord) -> list[TensorPlan]:
    scheme, name = record.scheme, record.name
    if not scheme.is_quantized:
        return [TensorPlan(name, _FLOAT_DTYPES[scheme.kind], record.shape)]
    if not _is_packed(record):
        return [TensorPlan(name, "F16", record.shape)]
    rows, columns = record.shape
    return [
        TensorPlan(f"{name}_packed", "I32", (rows, columns * scheme.bits // 32)),
        TensorPlan(f"{name}_scale", "BF16", (rows, columns // scheme.block)),
        TensorPlan(f"{name}_shape", "I64", (2,)),
    ]


def _write(writer: SafetensorsWriter, checkpoint: Checkpoint, name: str) -> None:
    tensor = checkpoint.tensor(name)
    if tensor.scales is None:
        writer.write(name, tensor.payload)
    elif not _is_packed(checkpoint.record(name)):
        writer.write_rows(name, (rows.dequantize().astype(np.float16) for rows in tensor.row_pieces()))
    else:
        writer.write(f"{name}_packed", _as_words(tensor.payload))
        writer.write(f"{name}_scale", tensor.scales.astype(ml_dtypes.bfloat16))
        writer.write(f"{name}_shape", np.array(tensor.shape, dtype=np.int64))
    checkpoint.release(name)


def _as_words(payload: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Bytes [rows, width] as little-endian int32 [rows, width / 4]; a block of 32 INT4 codes is four words."""
    return np.ascontiguousarray(payload).view("<i4")


def _shards(checkpoint: Checkpoint) -> list[list[TensorRecord]]:
    shards: list[list[TensorRecord]] = [[]]
    size_bytes = 0
    for record in checkpoint.records:
        item_bytes = sum(entry.size_bytes for entry in _plan(record))
        if shards[-1] and size_bytes + item_bytes > _SHARD_BYTES:
            shards.append([])
            size_bytes = 0
        shards[-1].append(record)
        size_bytes += item_bytes
    return shards


def _write_config(checkpoint: Checkpoint, directory: Path) -> None:
    config = dict(checkpoint.spec.config)
    groups, ignored = _groups(checkpoint)
    config.pop("torch_dtype", None)
    if groups:
        # float16 holds every dequantized weight; bfloat16 would round them.
        config["dtype"] = "float16"
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": ignored,
        }
    else:
        kinds = [record.kind for record in checkpoint.records if len(record.shape) > 1]
        config["dtype"] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[
            max(set(kinds), key=kinds.count)
        ]
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _groups(checkpoint: Checkpoint) -> tuple[dict[str, Any], list[str]]:
    """compressed-tensors' config_groups, one per scheme, naming modules; and the linear modules to leave alone."""
    members: dict[TensorScheme, list[str]] = {}
    ignored: list[str] = [HEAD.removesuffix(".weight")] if checkpoint.spec.tied_embeddings else []
    for record in checkpoint.records:
        module = record.name.removesuffix(".weight")
        if _is_packed(record):
            members.setdefault(record.scheme, []).append(module)
        elif len(record.shape) == 2 and record.name != EMBEDDING:
            ignored.append(module)
    ordered = sorted(members.items(), key=lambda item: -len(item[1]))
    return {
        f"group_{number}": _group(scheme, modules) for number, (scheme, modules) in enumerate(ordered)
    }, ignored


def _group(scheme: TensorScheme, modules: Sequence[str]) -> Mapping[str, Any]:
    return {
        "targets": list(modules),
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": scheme.block,
            "dynamic": False,
        },
        "input_activations": None,
        "output_activations": None,
    }
