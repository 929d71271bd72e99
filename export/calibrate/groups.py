"""Which linears of a decoder layer share an input, in the order in which the layer computes them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.export.families.decoder import DecoderSpec


@dataclass(frozen=True, slots=True)
class InputGroup:
    """modules: names inside the layer, e.g. `self_attn.q_proj`; the first one's input stands for all."""

    modules: tuple[str, ...]


def input_groups(spec: DecoderSpec) -> tuple[InputGroup, ...]:
    """The four inputs of a layer with attention and a gated feed-forward network."""
    del spec  # every family so far has these; one that fuses or lacks some is told apart here
    return (
        InputGroup(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        InputGroup(("self_attn.o_proj",)),
        InputGroup(("mlp.gate_proj", "mlp.up_proj")),
        InputGroup(("mlp.down_proj",)),
    )


def weight_name(index: int, module: str) -> str:
    """Hugging Face name of a linear's weight."""
    return f"model.layers.{index}.{module}.weight"
