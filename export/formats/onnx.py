"""ONNX container: an onnxruntime-genai folder (model.onnx, model.onnx.data, genai_config.json, tokenizer files)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.genai_config import write_genai_config
from edgeport.export.formats.onnx_graph import DecoderGraph
from edgeport.export.formats.onnx_weights import ExternalData
from edgeport.export.formats.tokenizer_files import copy_tokenizer
from edgeport.scheme import TensorScheme

_HEAD_MULTIPLE = 8


class OnnxFormat:
    name = "onnx"

    def reasons_against(self, spec: DecoderSpec, schemes: Sequence[TensorScheme], source: Path) -> list[str]:
        reasons = []
        if spec.head_dim % _HEAD_MULTIPLE:
            # GroupQueryAttention refuses other heads.
            reasons.append(f"head_dim {spec.head_dim} is not a multiple of {_HEAD_MULTIPLE}")
        if spec.block.norm == "rms" and spec.block.norm_bias:
            reasons.append("onnxruntime's RMSNorm has no bias")
        return reasons

    def write(self, checkpoint: Checkpoint, directory: Path, options: WriteOptions) -> Path:
        path = directory / "model.onnx"
        with options.progress.stage("pack onnx"), ExternalData(directory / "model.onnx.data") as data:
            model = DecoderGraph(checkpoint, data).build(options.name)
        model.metadata_props.add(key="edgeport.weights_id", value=checkpoint.weights_id)
        path.write_bytes(model.SerializeToString())
        write_genai_config(checkpoint, directory, max_length=options.context_length)
        copy_tokenizer(checkpoint.source_directory, directory)
        return path
