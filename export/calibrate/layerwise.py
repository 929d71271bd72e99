"""A model run one decoder layer at a time: weights are read when a layer's turn comes, activations stay between layers.

Layers are transformers' own modules, so a family that transformers runs is run right here by construction. A skeleton
without weights is made on torch's meta device; one forward pass through it, with every layer replaced by a recorder,
tells what each layer is called with (masks, rotary tables); after that layers run one by one on real weights in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]
"""Replacements for the source's weights, by canonical name."""


class LayerwiseModel:
    """Run windows of tokens [batch, n_ctx] through embedding, layers and head, each with weights of the caller's choice.

    Holds the weights of nothing but the layer in use. Raises MissingExtra without torch and transformers.
    """

    def __init__(self, source: SourceModel, *, n_ctx: int, threads: int) -> None:
        with missing_extra("eval", purpose="running the source model layer by layer"):
            import torch

            from edgeport.export.families.network import empty_network, make_rotary_tables
        torch.set_num_threads(threads)
        self.source = source
        self.layers = source.spec.layers
        self._torch = torch
        skeleton = empty_network(source.directory, dtype=torch.float32)
        skeleton.config.use_cache = False
        make_rotary_tables(skeleton)
        inner = skeleton.model
        self._inner = inner
        self._modules = list(inner.layers)
        self._calls = _record_calls(torch, inner, skeleton.config, n_ctx)

    def embed(self, tokens: npt.NDArray[np.int64], replaced: Weights | None = None) -> torch.Tensor:
        """tokens [batch, n_ctx] -> hidden states [batch, n_ctx, hidden_size] float32."""
        table = (replaced or {}).get(EMBEDDING, self.source.tensor(EMBEDDING))
        rows = table[tokens.reshape(-1)].astype(np.float32)
        scaled = rows * np.float32(self.source.spec.embedding_scale)
        return self._torch.from_numpy(scaled.reshape(*tokens.shape, -1))

    @contextmanager
    def layer(self, index: int, replaced: Weights | None = None) -> Iterator[torch.nn.Module]:
        """Decoder layer `index` with its weights in memory; a layer may be open twice, with different weights.

        Linears are found as `module.get_submodule("self_attn.q_proj")`; write through `set_weight` in between.
        """
        module = copy.deepcopy(self._modules[index])  # on the meta device: no weights are copied
        prefix = f"model.layers.{index}."
        state = {}
        for item in self.source.spec.layer_tensors(index):
            values = (replaced or {}).get(item.name)
            if values is None:
                values = self.source.tensor(item.name).astype(np.float32)
                self.source.weights.release(item.name)
            state[item.name.removeprefix(prefix)] = self._torch.from_numpy(np.ascontiguousarray(values))
        module.load_state_dict(state, assign=True)
        yield module

    def run(self, index: int, module: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """One layer over hidden states [batch, n_ctx, hidden_size]; n_ctx as given to the constructor."""
        with self._torch.inference_mode():
            output = module(hidden, **self._calls[index])
        return output[0] if isinstance(output, tuple) else output

    def logits(self, hidden: torch.Tensor, replaced: Weights | None = None) -> torch.Tensor:
        """Final norm and head over [..., hidden_size] -> [..., vocab_size]."""
        head, spec = self.head_weight(replaced), self.source.spec
        with self._torch.inference_mode():
            logits = self.final_norm(hidden, replaced) @ head.T
            logits = logits if spec.logit_scale == 1.0 else logits * spec.logit_scale
            cap = spec.logit_softcap
            return logits if cap is None else cap * self._torch.tanh(logits / cap)

    def final_norm(self, hidden: torch.Tensor, replaced: Weights | None = None) -> torch.Tensor:
        """What the head gets to see."""
        norm = self._inner.norm
        norm.load_state_dict({"weight": self._weight(FINAL_NORM, replaced)}, assign=True)
        with self._torch.inference_mode():
            output: torch.Tensor = norm(hidden)
        return output

    def head_weight(self, replaced: Weights | None = None) -> torch.Tensor:
        """[vocab_size, hidden_size] float32: lm_head, or the embedding where they are tied."""
        return self._weight(EMBEDDING if self.source.spec.tied_embeddings else HEAD, replaced)

    def _weight(self, name: str, replaced: Weights | None) -> torch.Tensor:
        values = (replaced or {}).get(name)
        if values is None:
            values = self.source.tensor(name).astype(np.float32)
        return self._torch.from_numpy(np.ascontiguousarray(values))


def set_weight(module: Any, name: str, values: Floats) -> None:
    """Replace a parameter of a loaded layer, e.g. `self_attn.q_proj.weight`, by float32 values of its shape."""
    import torch

    parameter = module.get_parameter(name)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _record_calls(torch: Any, inner: Any, config: Any, n_ctx: int) -> list[dict[str, Any]]:
    """Keyword arguments of each layer for one batch of n_ctx tokens; masks and positions are the same for every batch."""
    calls: list[dict[str, Any]] = []

    class Recorder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, layer: Any) -> None:
            super().__init__()
            # Some models ask their layers which attention they use.
            self.attention_type = getattr(layer, "attention_type", None)

        def forward(self, hidden: Any, **arguments: Any) -> Any:
            calls.append(arguments)
            return hidden

    modules = inner.layers
    embedding, norm = inner.embed_tokens, inner.norm
    inner.layers = torch.nn.ModuleList(Recorder(layer) for layer in modules)
    inner.norm = torch.nn.Identity()
    hidden = torch.zeros((1, n_ctx, config.hidden_size))
    with torch.inference_mode():
        inner(inputs_embeds=hidden, use_cache=False)
    inner.layers, inner.norm, inner.embed_tokens = modules, norm, embedding
    return calls
