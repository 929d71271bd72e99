"""One vector from the hidden states of a sequence: which rows count, and unit length.

Sources: Reimers and Gurevych 2019, arXiv:1908.10084 (cls, mean, max over token states); decoders use the state of the last
token, the only one that has seen all others: Neelakantan et al. 2022, arXiv:2201.10005.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError

Floats = npt.NDArray[np.float32]
Pooling = Literal["mean", "last", "cls", "max"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(states: Floats, pooling: str) -> Floats:
    """States [tokens, hidden_size] -> [hidden_size]; `cls` is the first row. Raises UsageError for another name or no rows."""
    check_pooling(pooling)
    if not len(states):
        raise UsageError("a sequence without tokens has no vector")
    vector: Floats
    if pooling == "mean":
        vector = states.mean(axis=0, dtype=np.float64).astype(np.float32)
    elif pooling == "max":
        vector = states.max(axis=0)
    else:
        vector = states[-1 if pooling == "last" else 0]
    return vector


def check_pooling(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise UsageError(f"pooling is {pooling!r}", hint=f"it can be {', '.join(POOLINGS)}")


def normalize(vectors: Floats) -> Floats:
    """Vectors [..., hidden_size] of length 1; a vector of zeros stays one."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=-1, keepdims=True))
    scaled: Floats = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return scaled
