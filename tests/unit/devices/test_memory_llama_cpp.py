"""KV cache bytes against what llama.cpp says it allocates, for tiny random models of several architectures."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.devices.gguf_shape import shape_from_gguf
from edgeport.devices.kv_cache import kv_cache_bytes

MIB = 2**20
LAYERS, HIDDEN, WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, WINDOW = 4, 128, 96, 4, 2, 32, 256, 700
GGML_F32, GGML_F16, GGML_Q4_0, GGML_Q8_0 = 0, 1, 2, 8
CACHE_TYPES = {32: GGML_F32, 16: GGML_F16, 8: GGML_Q8_0, 4: GGML_Q4_0}
LAYER_TENSORS = {
    "attn_norm": (HIDDEN,), "attn_q": (HEADS * HEAD_DIM, HIDDEN), "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN), "attn_output": (HIDDEN, HEADS * HEAD_DIM), "ffn_norm": (HIDDEN,),
    "ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN), "ffn_down": (HIDDEN, WIDTH),
}  # fmt: skip
CONVOLUTION = {
    "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "shortconv.conv": (HIDDEN, 3), "shortconv.in_proj": (3 * HIDDEN, HIDDEN),
    "shortconv.out_proj": (HIDDEN, HIDDEN), "ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN), "ffn_down": (HIDDEN, WIDTH),
}  # fmt: skip
GEMMA_NORMS = {"post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)}
HEAD_NORMS = {"attn_q_norm": (HEAD_DIM,), "attn_k_norm": (HEAD_DIM,)}
TENSORS: dict[str, list[dict[str, tuple[int, ...]]]] = {
    "llama": [LAYER_TENSORS] * LAYERS,
    "gemma2": [LAYER_TENSORS | GEMMA_NORMS] * LAYERS,
    "gemma3": [LAYER_TENSORS | GEMMA_NORMS | HEAD_NORMS] * LAYERS,
    "lfm2": [CONVOLUTION, LAYER_TENSORS | HEAD_NORMS, CONVOLUTION, CONVOLUTION],
}


def write_model(path: Path, architecture: str) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_string("tokenizer.ggml.model", "none")
    attends = ["attn_k" in parts for parts in TENSORS[architecture]]
    writer.add_head_count_kv(KV_HEADS if all(attends) else [KV_HEADS * item for item in attends])
    if architecture == "lfm2":
        writer.add_shortconv_l_cache(3)
    elif architecture != "llama":
        writer.add_sliding_window(WINDOW)
    random = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (VOCABULARY, HIDDEN)}
    shapes["token_embd_norm" if architecture == "lfm2" else "output_norm"] = (HIDDEN,)
    for layer, parts in enumerate(TENSORS[architecture]):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, np.float32) * 0.02
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def engine_log() -> Iterator[list[str]]:
    from llama_cpp import llama_cpp as native

    from edgeport.runtimes import llama_library

    lines: list[str] = []

    def keep(_level: int, text: bytes, _data: Any) -> None:
        lines.append(text.decode("utf-8", "replace"))

    llama_library.start()
    callback = native.llama_log_callback(keep)
    native.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield lines
    finally:
        llama_library.start()  # puts the library's own log back


def allocated(path: Path, context_length: int, bits: int, sequences: int = 1) -> float:
    """MiB of all caches, from the engine's log."""
    from llama_cpp import llama_cpp as native

    with engine_log() as lines:
        model = native.llama_model_load_from_file(str(path).encode(), native.llama_model_default_params())
        assert model, "".join(lines)
        parameters = native.llama_context_default_params()
        parameters.n_ctx = context_length * sequences
        parameters.n_seq_max = sequences
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.type_k = parameters.type_v = CACHE_TYPES[bits]
        parameters.flash_attn_type = 1
        parameters.swa_full = (
            False  # as llama-server and Ollama have it; the C interface alone keeps everything
        )
        context = native.llama_init_from_model(model, parameters)
        assert context, "".join(lines)
        native.llama_free(context)
        native.llama_model_free(model)
    text = "".join(lines)
    found = re.findall(r"(?:KV|RS) buffer size =\s+([\d.]+) MiB", text)
    assert found, text
    return sum(map(float, found))


CASES = [
    ("llama", 4096, 16, 1), ("llama", 4096, 8, 1), ("llama", 4096, 4, 1), ("llama", 4096, 32, 1), ("llama", 4000, 16, 1),
    ("llama", 2048, 16, 3),
    ("gemma2", 4096, 16, 1), ("gemma2", 4096, 8, 1), ("gemma2", 1024, 16, 1), ("gemma2", 2048, 16, 2),
    ("gemma3", 4096, 16, 1), ("lfm2", 4096, 16, 1),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "context", "bits", "sequences"), CASES)
def test_cache_bytes_are_the_engines(
    architecture: str, context: int, bits: int, sequences: int, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "tiny.gguf", architecture)
    shape = shape_from_gguf(path)
    predicted = kv_cache_bytes(shape, "llama.cpp", context, batch=sequences, kv_bits=bits)
    # the log rounds each buffer to a hundredth of a MiB
    assert predicted / MIB == pytest.approx(allocated(path, context, bits, sequences), abs=0.011)


def test_a_sliding_layer_keeps_less(tmp_path: Path) -> None:
    sliding = shape_from_gguf(write_model(tmp_path / "sliding.gguf", "gemma2"))
    whole = shape_from_gguf(write_model(tmp_path / "whole.gguf", "llama"))
    assert kv_cache_bytes(sliding, "llama.cpp", 8192) < 0.6 * kv_cache_bytes(whole, "llama.cpp", 8192)
