"""OpenVINO container: an IR with compressed weights, named as optimum-intel's export of an encoder (openvino_model.xml, .bin),
beside the files of the source."""

from __future__ import annotations

from pathlib import Path

import openvino as ov

from edgeport.export.encoders.openvino_graph import EncoderModelBuilder
from edgeport.export.encoders.packing import PackedEncoder, no_integer_compute
from edgeport.export.encoders.recipes import EncoderRecipe
from edgeport.export.encoders.sentence_transformers import copy_side_files
from edgeport.export.encoders.spec import EncoderSpec


class OpenVinoEncoderFormat:
    def reasons_against(self, spec: EncoderSpec, recipe: EncoderRecipe, source: Path) -> list[str]:
        return no_integer_compute(recipe)

    def write(self, encoder: PackedEncoder, directory: Path) -> Path:
        path = directory / "openvino_model.xml"
        builder = EncoderModelBuilder(encoder.spec, encoder.checkpoint)
        model = builder.build(encoder.name)
        model.set_rt_info(encoder.checkpoint.weights_id, ["edgeport", "weights_id"])
        ov.save_model(model, path, compress_to_fp16=False)
        for name in encoder.checkpoint.names():
            encoder.checkpoint.release(name)
        copy_side_files(encoder.checkpoint.source_directory, directory)
        return path
