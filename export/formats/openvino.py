"""OpenVINO container: a stateful IR with compressed weights, tokenizer models, and the configuration files consumers read.

Opens in openvino.Core, openvino_genai.LLMPipeline and optimum-intel. The layout follows optimum-intel's export
(openvino_model.xml/.bin, openvino_tokenizer.xml/.bin, openvino_detokenizer.xml/.bin, config.json).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import openvino as ov

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.openvino_graph import DecoderModel
from edgeport.export.formats.openvino_tokenizer import TokenizerConversion
from edgeport.export.formats.tokenizer_files import copy_tokenizer
from edgeport.scheme import TensorScheme


class OpenVinoFormat:
    name = "openvino"

    def reasons_against(self, spec: DecoderSpec, schemes: Sequence[TensorScheme], source: Path) -> list[str]:
        if not spec.is_llama:
            return [f"no OpenVINO graph for the layers of family {spec.family}"]
        if spec.head_dim % 2:
            return [f"head_dim {spec.head_dim} is odd, rotary embeddings turn pairs"]
        return []

    def write(self, checkpoint: Checkpoint, directory: Path, options: WriteOptions) -> Path:
        path = directory / "openvino_model.xml"
        with (
            options.progress.stage("pack openvino"),
            TokenizerConversion(checkpoint.source_directory, directory),
        ):
            write_model(checkpoint, path, options.name)
            shutil.copyfile(checkpoint.source_directory / "config.json", directory / "config.json")
            copy_tokenizer(checkpoint.source_directory, directory)
        return path


def write_model(checkpoint: Checkpoint, path: Path, name: str) -> None:
    """Write `path` (.xml) and the .bin beside it. The bytes go from the checkpoint's memory map to the file."""
    builder = DecoderModel(checkpoint)
    model = builder.build(name)
    model.set_rt_info(checkpoint.weights_id, ["edgeport", "weights_id"])
    if any(record.kind == "int2" for record in checkpoint.records):
        # With it, 2026.4's CPU plug-in answers u2 weights with an empty tensor wherever it computes in bfloat16 or float16.
        model.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    ov.save_model(model, path, compress_to_fp16=False)
    for tensor in checkpoint.names():
        checkpoint.release(tensor)
