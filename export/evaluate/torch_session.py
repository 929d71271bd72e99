"""A folder of transformers as a session: bitsandbytes' NF4 and LLM.int8, and any plain model, in transformers' own code.

As shipped it is what `AutoModelForCausalLM.from_pretrained(folder)` gives, in the folder's own dtype. In exact mode float
parts are widened to float32 and quantized layers become float32 layers over their dequantized weights, because LLM.int8
rounds activations to 8 bits and NF4 multiplies in the folder's compute dtype.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.errors import ArtifactError, RuntimeFailure
from edgeport.lazy import missing_extra
from edgeport.runtimes.session import Logits, SessionOptions
from edgeport.runtimes.threads import thread_count
from edgeport.runtimes.window import Window, choose_context_length

_CHUNK_TOKENS = 256
"""A prompt goes through in pieces: attention scores of one piece are [heads, piece, total]."""


def open_session(path: Path, options: SessionOptions) -> TorchSession:
    """`path` is a folder with config.json and safetensors, or a file in it.

    Raises MissingExtra without torch and transformers, ArtifactError for a folder without config.json, RuntimeFailure
    when transformers cannot open it.
    """
    network = load_network(path if path.is_dir() else path.parent, options)
    limit = int(network.config.max_position_embeddings)
    return TorchSession(network, choose_context_length(options.context_length, limit))


def load_network(folder: Path, options: SessionOptions) -> Any:
    """transformers' network on the processor, in evaluation mode. No code from the folder is run."""
    is_bitsandbytes = _is_bitsandbytes(folder)
    with missing_extra("bitsandbytes" if is_bitsandbytes else "eval", purpose=f"running {folder.name}"):
        import torch
        from transformers.utils import logging

        from edgeport.export.families import network as families

        if is_bitsandbytes:
            import accelerate  # noqa: F401
            import bitsandbytes  # noqa: F401
    torch.set_num_threads(thread_count(options.threads))
    logging.disable_progress_bar()
    # It tells at every layer of every token that it casts its input.
    getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)
    try:
        network = families.load_network(
            folder,
            dtype=torch.float32 if options.exact else None,
            device_map={"": "cpu"} if is_bitsandbytes else None,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise RuntimeFailure(f"transformers cannot open {folder}: {error}") from error
    if options.exact and is_bitsandbytes:
        _replace_quantized(network)
    return network


def _is_bitsandbytes(folder: Path) -> bool:
    path = folder / "config.json"
    try:
        quantization = json.loads(path.read_text(encoding="utf-8")).get("quantization_config") or {}
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read: {error}", hint="give a folder with config.json and safetensors"
        ) from error
    return quantization.get("quant_method") == "bitsandbytes"


def _replace_quantized(network: Any) -> None:
    """Put float32 layers with the same values in the place of bitsandbytes' ones, one at a time."""
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for name, module in list(network.named_modules()):
        if not isinstance(module, Linear4bit | Linear8bitLt):
            continue
        bias = None if module.bias is None else torch.nn.Parameter(module.bias.float(), requires_grad=False)
        plain = torch.nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = torch.nn.Parameter(_dequantized(module), requires_grad=False)
        plain.register_parameter("bias", bias)
        network.set_submodule(name, plain)


def _dequantized(module: Any) -> Any:
    """The layer's weight [out_features, in_features] in float32."""
    from bitsandbytes.functional import dequantize_4bit

    if hasattr(module.weight, "quant_state"):
        state = module.weight.quant_state
        state.dtype = _float32()  # else it rounds to the dtype that the weight came from
        return dequantize_4bit(module.weight.data, state)
    return module.weight.data.float() * (module.weight.SCB.float() / 127)[:, None]


def _float32() -> Any:
    import torch

    return torch.float32


class TorchSession:
    """One sequence over a loaded network; see edgeport.runtimes.session.Session."""

    def __init__(self, network: Any, context_length: int) -> None:
        from transformers import DynamicCache

        self._network = network
        self._cache: Any = DynamicCache()
        self._window = Window(context_length, int(network.config.vocab_size))

    @property
    def vocab_size(self) -> int:
        return self._window.vocab_size

    @property
    def context_length(self) -> int:
        return self._window.context_length

    @property
    def position(self) -> int:
        return self._window.position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        self._window.admit(tokens)
        rows = []
        for begin in range(0, len(tokens), _CHUNK_TOKENS):
            logits = self._forward(tokens[begin : begin + _CHUNK_TOKENS], all_logits=all_logits)
            if all_logits or begin + _CHUNK_TOKENS >= len(tokens):
                rows.append(logits)
        return np.concatenate(rows)

    def rewind(self, position: int) -> None:
        self._window.check_rewind(position)
        if position == 0:
            self._cache = type(self._cache)()
        elif position < self._window.position:
            self._cache.crop(position)
        self._window.position = position

    def close(self) -> None:
        if self._window.close():
            self._network = self._cache = None

    def _forward(self, tokens: Sequence[int], *, all_logits: bool) -> Logits:
        """Logits [len(tokens) or 1, vocab_size] float32."""
        import torch

        try:
            with torch.inference_mode():
                output = self._network(
                    torch.tensor([list(tokens)]),
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=0 if all_logits else 1,
                )
        except RuntimeError as error:
            raise RuntimeFailure(f"torch failed on {len(tokens)} tokens: {error}") from error
        self._window.position += len(tokens)
        logits: Logits = output.logits[0].float().numpy()
        return logits
