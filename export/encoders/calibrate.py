"""What the inputs of an encoder's linear layers look like on text: least and greatest value, for static INT8 activations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from edgeport.export.checkpoint import StoredTensors
from edgeport.export.encoders.golden import read_lines
from edgeport.export.encoders.spec import EncoderSpec
from edgeport.runtimes.encoders.bert_reference import BertReference, BertShape, Floats, Weights

TEXTS = 64
_SLICES = ("prose.txt", "documentation.txt", "languages.txt", "numbers.txt")
_LONGEST_CHARACTERS = 600


def calibration_texts(path: Path | None) -> tuple[str, ...]:
    """Lines of a UTF-8 file; None: of the slices that come with edgeport, as many of each. Raises UsageError."""
    if path is not None:
        return read_lines(path, TEXTS)
    folder = resources.files("edgeport.export.calibrate") / "data"
    found: list[str] = []
    for name in _SLICES:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()[1:]  # the first says whose it is
        found += [line.strip()[:_LONGEST_CHARACTERS] for line in lines if line.strip()][
            : TEXTS // len(_SLICES)
        ]
    return tuple(found)


def input_ranges(
    spec: EncoderSpec, checkpoint: StoredTensors, ids: Sequence[Sequence[int]]
) -> dict[str, tuple[float, float]]:
    """By the name of a linear layer's weight: least and greatest value of its input over all tokens of `ids`.

    Runs the numpy reference over the checkpoint's weights, which are kept in float32 meanwhile.
    """
    ranges: dict[str, tuple[float, float]] = {}

    def widen(name: str, values: Floats) -> None:
        low, high = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))

    reference = BertReference(dequantized(checkpoint), bert_shape(spec), widen)
    reference.encode(ids)
    return ranges


def dequantized(checkpoint: StoredTensors) -> Weights:
    """The checkpoint's weights by name, in float32, each made once."""
    return functools.cache(lambda name: checkpoint.tensor(name).dequantize())


def bert_shape(spec: EncoderSpec) -> BertShape:
    classified = {"sequence-classification": "sequence", "token-classification": "token"}
    return BertShape(
        layers=spec.layers,
        heads=spec.heads,
        layer_norm_eps=spec.layer_norm_eps,
        activation=spec.activation,
        has_token_types=bool(spec.token_types),
        context_length=spec.context_length,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        pooler=spec.pooler,
        classified=classified.get(spec.task),
    )
