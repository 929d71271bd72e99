"""OpenVINO container: a stateful IR with compressed weights, tokenizer models, and the configuration files consumers read.

Opens in openvino.Core, openvino_genai.LLMPipeline and optimum-intel. The layout follows optimum-intel's export
(openvino_model.xml/.bin, openvino_tokenizer.xml/.bin, openvino_detokenizer.xml/.bin, config.json).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
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
        return list(_reasons(spec))

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


def _reasons(spec: DecoderSpec) -> Iterator[str]:
    """What the graph of a spec would need that edgeport.export.formats.openvino_graph does not draw."""
    if spec.block.norm != "rms" or spec.block.norm_bias:
        yield f"the OpenVINO graph has no {spec.block.norm} norm with biases, only RMSNorm without"
    if not spec.block.gated:
        yield "the OpenVINO graph has no feed-forward without a gate"
    ropes = [spec.rope, *([spec.window_rope] if spec.window_rope else [])]
    for width in sorted({rope.rotary_dim or spec.head_dim for rope in ropes}):
        if width % 2:
            name = "head_dim" if width == spec.head_dim else "the rotary width"
            yield f"{name} {width} is odd, rotary embeddings turn pairs"


def write_model(checkpoint: Checkpoint, path: Path, name: str) -> None:
    """Write `path` (.xml) and the .bin beside it. The bytes go from the checkpoint's memory map to the file."""
    builder = DecoderModel(checkpoint)
    model = builder.build(name)
    model.set_rt_info(checkpoint.weights_id, ["edgeport", "weights_id"])
    if windows := attention_windows(checkpoint.spec):
        model.set_rt_info(windows, ["edgeport", "attention_windows"])
    if any(record.kind == "int2" for record in checkpoint.records):
        # With it, 2026.4's CPU plug-in answers u2 weights with an empty tensor wherever it computes in bfloat16 or float16.
        model.set_rt_info("0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    ov.save_model(model, path, compress_to_fp16=False)
    for tensor in checkpoint.names():
        checkpoint.release(tensor)


def attention_windows(spec: DecoderSpec) -> str:
    """Tokens each layer sees, 0 for all, as "16,16,0"; empty where every layer sees all. Paged runtimes compare it."""
    windows = [spec.window(layer) or 0 for layer in range(spec.layers)]
    return ",".join(map(str, windows)) if any(windows) else ""
