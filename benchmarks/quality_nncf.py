"""NNCF as a peer: `nncf.compress_weights` to INT4 in groups of 32 on the OpenVINO graph that optimum-intel exports.

Everything else is NNCF's default: embeddings and head in INT8, all linears in 4 bit (ratio 1.0), its own settings of each
method. Data-aware methods see the calibration windows that all of the table's methods see, all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

METHODS: dict[str, dict[str, bool]] = {
    "data free": {},
    "AWQ + scale estimation": {"awq": True, "scale_estimation": True},
    "GPTQ": {"gptq": True},
}


def export_float(model: str, out: str) -> str:
    """optimum-intel's float32 graph with a stateful cache, in folder `out`; returns the graph file."""
    command = [str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "--model", model]
    command += ["--task", "text-generation-with-past", "--weight-format", "fp32", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    graph = Path(out) / "openvino_model.xml"
    if done.returncode != 0 or not graph.is_file():
        raise RuntimeError(
            f"optimum-cli ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
        )
    return str(graph)


def compress(source: str, windows: str, mode: str, method: str, out: str, threads: int) -> str:
    """Compress the graph `source` with `mode` (INT4_SYM, INT4_ASYM) into folder `out`; returns the new graph file."""
    import nncf
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": threads})
    model = core.read_model(source)
    options: dict[str, Any] = dict(METHODS[method])
    if options:
        tokens = np.load(windows)  # [windows, n_ctx]
        options["dataset"] = nncf.Dataset([_inputs(window[None]) for window in tokens])
        options["subset_size"] = len(tokens)
    compressed = nncf.compress_weights(
        model, mode=getattr(nncf.CompressWeightsMode, mode), group_size=32, ratio=1.0, **options
    )
    target = Path(out) / "openvino_model.xml"
    openvino.save_model(compressed, target, compress_to_fp16=False)  # as optimum-intel saves it
    return str(target)


def _inputs(tokens: Any) -> dict[str, Any]:
    """One sample for tokens [1, n_ctx]."""
    return {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.arange(tokens.shape[1], dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
