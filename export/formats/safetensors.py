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
from dataclasses import dataclass
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
        modules = stored_modules(checkpoint)
        shards = _shards(modules)
        index: dict[str, str] = {}
        with options.progress.stage("pack safetensors", total=len(modules)) as stage:
            for number, shard in enumerate(shards, start=1):
                name = (
                    "model.safetensors"
                    if len(shards) == 1
                    else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                )
                plan = [entry for module in shard for entry in _plan(module)]
                index.update({entry.name: name for entry in plan})
                with SafetensorsWriter(directory / name, plan) as writer:
                    for module in shard:
                        _write(writer, checkpoint, module)
                        stage.advance(1)
        if len(shards) > 1:
            document = {"metadata": {}, "weight_map": index}
            (directory / "model.safetensors.index.json").write_text(
                json.dumps(document, indent=2) + "\n", encoding="utf-8"
            )
        _write_config(checkpoint, directory, modules)
        copy_tokenizer(checkpoint.source_directory, directory, for_transformers=True)
        return directory / "config.json"


@dataclass(frozen=True, slots=True)
class StoredModule:
    """One tensor of the folder and the checkpoint's tensors that are its rows, one after the other.

    scheme: how it is stored. subtracted: from its values, in float32.
    """

    name: str
    records: tuple[TensorRecord, ...]
    scheme: TensorScheme
    subtracted: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(record.shape[0] for record in self.records), *self.records[0].shape[1:])

    @property
    def is_packed(self) -> bool:
        return self.scheme.is_quantized


def stored_modules(checkpoint: Checkpoint) -> list[StoredModule]:
    """What the folder will hold, in the checkpoint's order, laid out as the family's own folders are."""
    storage = checkpoint.spec.storage
    roles = {item.name: item.role for item in checkpoint.spec.tensors()}
    modules: dict[str, StoredModule] = {}
    for record in checkpoint.records:
        name, parts = storage.group(record.name)
        if name in modules:
            continue
        records = tuple(checkpoint.record(part) for part in parts)
        offset = storage.norm_offset if roles[record.name] == "norm" else 0.0
        modules[name] = StoredModule(name, records, _scheme(records, offset), offset)
    return list(modules.values())


def _scheme(records: Sequence[TensorRecord], offset: float) -> TensorScheme:
    """Rows of several schemes cannot share a packed matrix: float16 holds what codes dequantize to, float32 every float."""
    schemes = {record.scheme for record in records}
    if offset:
        return TensorScheme("f32")
    if len(schemes) == 1 and not (records[0].scheme.is_quantized and records[0].name == EMBEDDING):
        return records[0].scheme
    exact_in_f16 = all(scheme.is_quantized or scheme.kind == "f16" for scheme in schemes)
    return TensorScheme("f16" if exact_in_f16 else "f32")


def _plan(module: StoredModule) -> list[TensorPlan]:
    scheme, name = module.scheme, module.name
    if not scheme.is_quantized:
        return [TensorPlan(name, _FLOAT_DTYPES[scheme.kind], module.shape)]
    rows, columns = module.shape
    return [
        TensorPlan(f"{name}_packed", "I32", (rows, columns * scheme.bits // 32)),
        TensorPlan(f"{name}_scale", "BF16", (rows, columns // scheme.block)),
        TensorPlan(f"{name}_shape", "I64", (2,)),
    ]


def _write(writer: SafetensorsWriter, checkpoint: Checkpoint, module: StoredModule) -> None:
    tensors = [checkpoint.tensor(record.name) for record in module.records]
    name = module.name
    if module.is_packed:
        scales = [tensor.scales for tensor in tensors if tensor.scales is not None]
        writer.write_rows(f"{name}_packed", (_as_words(tensor.payload) for tensor in tensors))
        writer.write_rows(f"{name}_scale", (item.astype(ml_dtypes.bfloat16) for item in scales))
        writer.write(f"{name}_shape", np.array(module.shape, dtype=np.int64))
    elif module.subtracted:
        writer.write(name, tensors[0].dequantize() - np.float32(module.subtracted))
    elif any(tensor.scheme != module.scheme for tensor in tensors):
        dtype = np.float16 if module.scheme.kind == "f16" else np.float32
        pieces = (rows for tensor in tensors for rows in tensor.row_pieces())
        writer.write_rows(name, (rows.dequantize().astype(dtype) for rows in pieces))
    else:
        writer.write_rows(name, (tensor.payload for tensor in tensors))
    for record in module.records:
        checkpoint.release(record.name)


def _as_words(payload: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Bytes [rows, width] as little-endian int32 [rows, width / 4]; a block of 32 INT4 codes is four words."""
    return np.ascontiguousarray(payload).view("<i4")


def _shards(modules: Sequence[StoredModule]) -> list[list[StoredModule]]:
    shards: list[list[StoredModule]] = [[]]
    size_bytes = 0
    for module in modules:
        item_bytes = sum(entry.size_bytes for entry in _plan(module))
        if shards[-1] and size_bytes + item_bytes > _SHARD_BYTES:
            shards.append([])
            size_bytes = 0
        shards[-1].append(module)
        size_bytes += item_bytes
    return shards


def _write_config(checkpoint: Checkpoint, directory: Path, modules: Sequence[StoredModule]) -> None:
    config = dict(checkpoint.spec.config)
    groups, ignored = _groups(modules, tied=checkpoint.spec.tied_embeddings)
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
        kinds = [module.scheme.kind for module in modules if len(module.shape) > 1]
        config["dtype"] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[
            max(set(kinds), key=kinds.count)
        ]
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _groups(modules: Sequence[StoredModule], *, tied: bool) -> tuple[dict[str, Any], list[str]]:
    """compressed-tensors' config_groups, one per scheme, naming modules; and the linear modules to leave alone."""
    members: dict[TensorScheme, list[str]] = {}
    ignored: list[str] = [HEAD.removesuffix(".weight")] if tied else []
    for stored in modules:
        module = stored.name.removesuffix(".weight")
        if stored.is_packed:
            members.setdefault(stored.scheme, []).append(module)
        elif len(stored.shape) == 2 and stored.name != EMBEDDING:
            ignored.append(module)
    ordered = sorted(members.items(), key=lambda item: -len(item[1]))
    return {
        f"group_{number}": _group(scheme, names) for number, (scheme, names) in enumerate(ordered)
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
