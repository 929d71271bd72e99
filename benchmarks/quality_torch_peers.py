"""Two peers that start from the Hugging Face folder itself: onnxruntime-genai's builder, and bitsandbytes in transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def build_onnx(model: str, options: list[str], out: str) -> str:
    """`python -m onnxruntime_genai.models.builder -p int4 -e cpu` with --extra_options; returns the graph file."""
    command = [
        sys.executable,
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        model,
        "-o",
        out,
        "-c",
        f"{out}/cache",
    ]
    command += ["-p", "int4", "-e", "cpu", "--extra_options", "hf_token=false", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    graph = Path(out) / "model.onnx"
    if done.returncode != 0 or not graph.is_file():
        raise RuntimeError(
            f"the builder ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
        )
    return str(graph)


def quantize_nf4(model: str, out: str, double_quantization: bool) -> str:
    """NF4 in blocks of 64 as transformers loads and saves it; embedding and head stay as they are."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quantization,
        bnb_4bit_compute_dtype=torch.float32,
    )
    network = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=config, device_map={"": "cpu"}, local_files_only=True
    )
    network.save_pretrained(out)
    return out
