"""ONNX container: model.onnx with its external data, and the files that sentence-transformers, Optimum and
text-embeddings-inference look for beside it.

text-embeddings-inference opens `model.onnx` in the folder itself before it tries `onnx/model.onnx`, reads config.json and
1_Pooling/config.json there, and takes `logits` of a classifier (its backends/ort).
"""

from __future__ import annotations

from pathlib import Path

from edgeport.export.encoders.onnx_graph import EncoderGraph
from edgeport.export.encoders.onnx_linears import DynamicLinears, Linears, StaticLinears, StoredLinears
from edgeport.export.encoders.packing import PackedEncoder
from edgeport.export.encoders.recipes import EncoderRecipe
from edgeport.export.encoders.sentence_transformers import copy_side_files
from edgeport.export.encoders.spec import EncoderSpec
from edgeport.export.formats.onnx_weights import ExternalData


class OnnxEncoderFormat:
    def reasons_against(self, spec: EncoderSpec, recipe: EncoderRecipe, source: Path) -> list[str]:
        return []

    def write(self, encoder: PackedEncoder, directory: Path) -> Path:
        path = directory / "model.onnx"
        with ExternalData(directory / "model.onnx.data") as data:
            graph = EncoderGraph(encoder.spec, encoder.checkpoint, data, _linears(encoder))
            model = graph.build(encoder.name)
        model.metadata_props.add(key="edgeport.weights_id", value=encoder.checkpoint.weights_id)
        path.write_bytes(model.SerializeToString())
        copy_side_files(encoder.checkpoint.source_directory, directory)
        return path


def _linears(encoder: PackedEncoder) -> Linears:
    if encoder.recipe.activations == "dynamic":
        return DynamicLinears(encoder.checkpoint, encoder.int8)
    if encoder.recipe.activations == "static":
        return StaticLinears(encoder.checkpoint, encoder.int8, encoder.ranges)
    return StoredLinears(encoder.checkpoint)
