"""Read the fields every encoder's config.json shares; each missing or unusable one is named, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.encoders.spec import Activation, EncoderSpec, HeadActivation, Task

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""transformers' names (its ACT2FN); gelu_fast and gelu_new write the same tanh approximation in another order."""
LARGEST, MOST_LAYERS, MOST_LABELS = (1 << 31) - 1, 512, 1 << 16
"""What a size may be. llama.cpp takes as many layers (LLAMA_MAX_LAYERS); a damaged file must not make the reader count on."""
DEFAULT_LABELS = 2
"""How many a classifier has whose config.json names none: transformers leaves its own default out."""


@dataclass(frozen=True, slots=True)
class ConfigKeys:
    """What a family calls its sizes. epsilon: None where the family has no such key and always takes 1e-12."""

    hidden_size: str = "hidden_size"
    intermediate_size: str = "intermediate_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    activation: str = "hidden_act"
    epsilon: str | None = "layer_norm_eps"


@dataclass(frozen=True, slots=True)
class Traits:
    """What a family has that config.json does not say.

    poolers: the activation of the dense layer before the classifier, by task. token_types_key: None where there are none.
    padded_positions: the position table begins with pad_token_id + 1 rows that no token has.
    """

    family: str
    poolers: Mapping[Task, HeadActivation]
    keys: ConfigKeys = ConfigKeys()
    token_types_key: str | None = "type_vocab_size"
    padded_positions: bool = False


def read_encoder(config: Mapping[str, Any], task: Task, traits: Traits) -> EncoderSpec:
    """Raises UnsupportedModel with every reason at once."""
    fields = _Fields(config)
    keys = traits.keys
    hidden_size, heads = fields.count(keys.hidden_size), fields.count(keys.heads)
    positions = fields.count("max_position_embeddings")
    offset = fields.count("pad_token_id", default=1, least=0) + 1 if traits.padded_positions else 0
    if hidden_size % heads:
        fields.problem(f"{keys.hidden_size} {hidden_size} is not a multiple of {heads} heads")
    if positions <= offset:
        fields.problem(f"max_position_embeddings {positions} leaves no position after the first {offset}")
    spec = EncoderSpec(
        family=traits.family,
        architecture=str(config["architectures"][0]),
        hidden_size=hidden_size,
        intermediate_size=fields.count(keys.intermediate_size),
        layers=fields.count(keys.layers, most=MOST_LAYERS),
        heads=heads,
        head_dim=hidden_size // heads,
        vocab_size=fields.count("vocab_size"),
        context_length=positions - offset,
        layer_norm_eps=fields.epsilon(keys.epsilon),
        activation=fields.activation(keys.activation),
        token_types=fields.count(traits.token_types_key, default=2) if traits.token_types_key else 0,
        position_offset=offset,
        task=task,
        labels=fields.labels() if task != "features" else (),
        pooler=traits.poolers.get(task),
        config=dict(config),
    )
    fields.refuse_variants()
    if fields.problems:
        told = "; ".join(fields.problems)
        raise UnsupportedModel(f"this {traits.family} model cannot be exported: {told}")
    return spec


class _Fields:
    """Reads values, and collects what is wrong with them; a wrong one reads as something that can be computed with."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def count(self, key: str, *, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        value = self._config.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            told = "is missing" if value is None else f"is {value!r:.60}"
            self.problem(f"{key} {told}, expected a whole number from {least} to {most}")
            return max(least, 1)
        return value

    def epsilon(self, key: str | None) -> float:
        value = 1e-12 if key is None else self._config.get(key, 1e-12)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            self.problem(f"{key} is {value!r:.60}, expected a number between 0 and 1")
            return 1e-12
        return float(value)

    def activation(self, key: str) -> Activation:
        name = self._config.get(key, "gelu")
        if not isinstance(name, str) or name not in ACTIVATIONS:
            self.problem(f"{key} is {name!r:.60}, supported are {', '.join(ACTIVATIONS)}")
            return "gelu"
        return ACTIVATIONS[name]

    def labels(self) -> tuple[str, ...]:
        """Names in the order of the logits."""
        named = self._config.get("id2label")
        if not named:
            count = self.count("num_labels", default=DEFAULT_LABELS, most=MOST_LABELS)
            return tuple(f"LABEL_{index}" for index in range(count))
        try:
            by_index = {int(index): str(label) for index, label in dict(named).items()}
        except (TypeError, ValueError, OverflowError):
            self.problem(f"id2label is {named!r:.60}, expected numbers and their labels")
            return ("LABEL_0",)
        if sorted(by_index) != list(range(len(by_index))):
            self.problem(f"id2label does not number its {len(by_index)} labels from 0")
            return ("LABEL_0",)
        return tuple(by_index[index] for index in range(len(by_index)))

    def refuse_variants(self) -> None:
        """What makes another network of it."""
        config = self._config
        for key in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
            if config.get(key):
                self.problem(f"{key} is true, supported are encoders")
        kind = config.get("position_embedding_type", "absolute")
        if kind not in ("absolute", None):
            self.problem(f"position_embedding_type is {kind!r:.60}, supported is 'absolute'")
        if config.get("pruned_heads"):
            self.problem(
                "pruned_heads: layers with fewer heads are not supported; save the model with all of them"
            )
        if config.get("auto_map"):
            self.problem("auto_map: the model brings code of its own, which is never run")
        if config.get("quantization_config"):
            self.problem("it is already quantized; give the original 16-bit or 32-bit model")
