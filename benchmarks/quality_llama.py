"""llama.cpp's own quantizer as a peer: `llama_model_quantize` from a bf16 GGUF, with and without an importance matrix.

Called through ctypes and in a process of its own, apart from what edgeport does with the same library. The importance matrix
is collected here from transformers' own modules: per linear layer the mean square of every input feature over all tokens of
the calibration windows, which is what llama-imatrix computes (examples/imatrix). The tied embedding, which is also the
output head, gets none, as there: llama-imatrix keeps `blk.*` and, when asked to, `output.weight`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

FILE_TYPES = {
    "Q3_K_M": 12, "Q4_0": 2, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7, "IQ4_XS": 30, "IQ4_NL": 25,
}  # fmt: skip
"""llama_ftype by name (llama.h)."""
_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def collect_imatrix(model: str, windows: str, out: str, threads: int) -> int:
    """Mean squared inputs by GGUF tensor name into the .npz `out`; returns the number of tensors."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    sums: dict[str, Any] = {}
    tokens = np.load(windows)  # [windows, n_ctx]

    def watch(name: str) -> Any:
        def hook(_module: Any, inputs: Any) -> None:
            squares = inputs[0].detach().double().square().sum(dim=(0, 1))  # [in_features]
            sums[name] = sums.get(name, 0) + squares

        return hook

    for index, layer in enumerate(network.model.layers):
        for path, short in _GGUF_NAMES.items():
            layer.get_submodule(path).register_forward_pre_hook(watch(f"blk.{index}.{short}.weight"))
    with torch.inference_mode():
        for window in tokens:
            network.model(torch.tensor(window[None]), use_cache=False)
    np.savez(out, **{name: (total / tokens.size).float().numpy() for name, total in sums.items()})
    return len(sums)


def quantize(source: str, imatrix: str | None, file_type: str, out: str, threads: int) -> str:
    """Quantize the GGUF file `source` into folder `out`; returns the new file."""
    import llama_cpp.llama_cpp as native

    target = Path(out) / f"model-{file_type.lower()}.gguf"
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = FILE_TYPES[file_type], threads
    kept: list[Any] = []
    if imatrix is not None:
        kept = _imatrix_entries(Path(imatrix))
        parameters.imatrix = ctypes.cast(kept[0], ctypes.POINTER(native.llama_model_imatrix_data))
    status = native.llama_model_quantize(source.encode(), str(target).encode(), parameters)
    if status != 0:
        raise RuntimeError(f"llama_model_quantize returned {status}")
    return str(target)


def _imatrix_entries(path: Path) -> list[Any]:
    """The C array, ended by an entry without a name, and after it the buffers it points into."""
    import llama_cpp.llama_cpp as native

    values = {name: np.ascontiguousarray(array, np.float32) for name, array in np.load(path).items()}
    entries = (native.llama_model_imatrix_data * (len(values) + 1))()
    for entry, (name, array) in zip(entries, values.items(), strict=False):
        entry.name = name.encode()
        entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = array.size
    return [entries, values]
