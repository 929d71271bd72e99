"""Which sequences go into one run of the engine, and how they are padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeport.runtimes.encoder import HiddenStates

BATCH_TOKENS = 256
"""Tokens of one run, padding included: enough rows for the matrix kernels, and little memory for attention scores."""

Tokens = npt.NDArray[np.int64]


def encode_padded(
    sequences: Sequence[Sequence[int]], run: Callable[[Tokens, Tokens], HiddenStates]
) -> list[HiddenStates]:
    """States of each sequence by runs over padded token ids and their mask -> [sequences, longest, hidden_size]; of a run with
    one row per sequence, [sequences, width], that row."""
    states: dict[int, HiddenStates] = {}
    for batch in plan_batches([len(sequence) for sequence in sequences]):
        rows = run(*padded([sequences[index] for index in batch]))
        for row, index in zip(rows, batch, strict=True):
            states[index] = row.copy() if row.ndim == 1 else row[: len(sequences[index])].copy()
    return [states[index] for index in range(len(sequences))]


def plan_batches(lengths: Sequence[int], limit: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices of the sequences of each run, longest first, so that little is padded; one above the limit is alone."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= limit:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tokens, Tokens]:
    """Token ids and attention mask [sequences, longest]; padding is token 0 at the end, with mask 0."""
    longest = max(map(len, sequences))
    tokens, mask = (np.zeros((len(sequences), longest), np.int64) for _ in range(2))
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return tokens, mask
