"""The source model as a session: transformers in float32 with a cache that can be rewound.

So that generation and multiple choice are written once and run over the source exactly as over a container.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.errors import RuntimeFailure
from edgeport.lazy import missing_extra
from edgeport.runtimes.session import Logits


def load_source(model: Path, threads: int) -> Any:
    """transformers' own network in float32, in evaluation mode. Raises MissingExtra without torch."""
    with missing_extra("eval", purpose="running the source model"):
        import torch
        from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    return AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, local_files_only=True, use_safetensors=True
    ).eval()


class SourceSession:
    """A Session (`runtimes/session.py`) over a loaded network."""

    def __init__(self, network: Any, context_length: int) -> None:
        from transformers import DynamicCache

        self._network = network
        self._new_cache = DynamicCache
        self._cache: Any = DynamicCache()
        self._context_length = context_length
        self._position = 0

    @property
    def vocab_size(self) -> int:
        return int(self._network.config.vocab_size)

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def position(self) -> int:
        return self._position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        import torch

        if self._position + len(tokens) > self._context_length:
            raise RuntimeFailure(
                f"{self._position} + {len(tokens)} tokens are more than the context of {self._context_length}",
                hint="use shorter prompts or fewer tokens",
            )
        with torch.inference_mode():
            output = self._network(
                torch.tensor([list(tokens)]),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=0 if all_logits else 1,
            )
        self._cache = output.past_key_values
        self._position += len(tokens)
        return np.asarray(output.logits[0].numpy(), dtype=np.float32)

    def rewind(self, position: int) -> None:
        if not 0 <= position <= self._position:
            raise RuntimeFailure(f"cannot rewind to {position}, the session holds {self._position} tokens")
        if position == 0:
            self._cache = self._new_cache()
        elif position < self._position:
            self._cache.crop(position)
        self._position = position

    def close(self) -> None:
        self._cache = None
