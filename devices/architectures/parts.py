"""What architectures are made of: attention as a configuration describes it, and tensors with their names and roles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edgeport.devices.architectures.fields import ConfigFields
from edgeport.devices.shape import CacheShape, ModelShape, Role, TensorShape

SLIDING, FULL = "sliding_attention", "full_attention"
CAUSAL_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class Frame:
    """The sizes every decoder has. query_size, key_size: features of all heads together."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Defaults:
    """What transformers' configuration class assumes where a file leaves a field out; None: the field is required."""

    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int | None = None
    context_length: int | None = None


REQUIRED = Defaults()


def read_frame(fields: ConfigFields, defaults: Defaults = REQUIRED) -> Frame:
    """The sizes under the names that llama and its successors use."""
    require_language_model(fields)
    hidden_size = fields.size("hidden_size")
    heads = fields.count("num_attention_heads", default=defaults.heads)
    kv_heads = fields.count("num_key_value_heads", default=defaults.kv_heads or heads)
    head_dim = fields.optional_size("head_dim") or defaults.head_dim
    if head_dim is None:
        head_dim = divided_heads(fields, hidden_size, heads)
    if heads % kv_heads:
        fields.problem(f"{heads} heads are not a multiple of {kv_heads} key-value heads")
    return Frame(
        hidden_size=hidden_size,
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=fields.size("vocab_size", default=defaults.vocab_size),
        context_length=fields.size("max_position_embeddings", default=defaults.context_length),
    )


def require_language_model(fields: ConfigFields) -> None:
    """A problem when `architectures` names a network with another head than a vocabulary."""
    named = fields.items("architectures") or []
    wrong = [item for item in named if not str(item).endswith(CAUSAL_HEADS)]
    if wrong:
        fields.problem(f"architecture {wrong[0]!r:.60} is not a language model ({', '.join(CAUSAL_HEADS)})")


def divided_heads(fields: ConfigFields, hidden_size: int, heads: int) -> int:
    """The head size where it is not given: an equal share of the hidden size."""
    if hidden_size % heads:
        fields.problem(f"hidden_size {hidden_size} is not a multiple of {heads} heads")
    return max(1, hidden_size // heads)


def layer_windows(
    fields: ConfigFields, layers: int, window: int | None, slides: Callable[[int], bool]
) -> tuple[int | None, ...]:
    """The attention window of each layer: by `layer_types` where the file has it, otherwise by the family's own rule."""
    named = fields.items("layer_types")
    kinds = list(named) if named else [SLIDING if slides(layer) else FULL for layer in range(layers)]
    if len(kinds) != layers:
        fields.problem(f"layer_types has {len(kinds)} entries for {layers} layers")
    unknown = sorted({str(kind) for kind in kinds} - {SLIDING, FULL})
    if unknown:
        fields.problem(f"layer_types has {', '.join(unknown)[:60]}, supported are {SLIDING} and {FULL}")
    return tuple(window if kind == SLIDING else None for kind in kinds)


def attention_caches(frame: Frame, windows: Iterable[int | None]) -> tuple[CacheShape, ...]:
    return tuple(CacheShape(frame.kv_heads, frame.head_dim, frame.head_dim, window) for window in windows)


def linear(
    name: str, rows: int, columns: int, layer: int | None = None, *, bias: bool = False
) -> Iterator[TensorShape]:
    """A matrix [rows, columns] = [out_features, in_features], and its bias."""
    yield TensorShape(f"{name}.weight", (rows, columns), "linear", layer)
    if bias:
        yield TensorShape(f"{name}.bias", (rows,), "bias", layer)


def norm(name: str, size: int, layer: int | None = None, *, bias: bool = False) -> Iterator[TensorShape]:
    yield TensorShape(f"{name}.weight", (size,), "norm", layer)
    if bias:
        yield TensorShape(f"{name}.bias", (size,), "norm", layer)


def table(name: str, rows: int, columns: int, role: Role = "embedding") -> TensorShape:
    """An embedding, position table or head [rows, columns]."""
    return TensorShape(f"{name}.weight", (rows, columns), role)


def experts(name: str, rows: int, columns: int, layer: int, count: int) -> TensorShape:
    """`count` matrices; the `*` in `name` stands for the expert's number."""
    return TensorShape(f"{name}.weight", (rows, columns), "expert", layer, count)


def model_shape(
    fields: ConfigFields,
    frame: Frame,
    tensors: Iterable[TensorShape],
    caches: tuple[CacheShape, ...],
    *,
    intermediate_size: int,
    tied: bool,
) -> ModelShape:
    return ModelShape(
        name=fields.name,
        family=fields.family,
        hidden_size=frame.hidden_size,
        intermediate_size=intermediate_size,
        heads=frame.heads,
        head_dim=frame.head_dim,
        vocab_size=frame.vocab_size,
        context_length=frame.context_length,
        tied_embeddings=tied,
        tensors=tuple(tensors),
        caches=caches,
    )
