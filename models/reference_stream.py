"""Training tokens in a fixed pseudo-random order."""

from __future__ import annotations

import numpy as np
import reference_data as data
import torch
from reference_model import Settings
from transformers import PreTrainedTokenizerFast


class Stream:
    """Training tokens as blocks of settings.block_tokens; the batch of a step depends on nothing but seed and step."""

    def __init__(self, documents: list[np.ndarray], settings: Settings) -> None:
        self._documents = documents
        self._settings = settings
        self._epoch = -1
        self._tokens = np.empty(0, dtype=np.int32)
        self._starts = np.empty(0, dtype=np.int64)
        total = sum(len(document) for document in documents)
        self.steps_per_epoch = (
            (total - 2 * settings.block_tokens) // settings.block_tokens // settings.blocks_per_step
        )

    def _shuffle(self, epoch: int) -> None:
        rng = np.random.default_rng([self._settings.seed, epoch])
        order = rng.permutation(len(self._documents))
        self._tokens = np.concatenate([self._documents[index] for index in order])
        offset = int(rng.integers(self._settings.block_tokens))  # block borders fall elsewhere in each epoch
        count = self.steps_per_epoch * self._settings.blocks_per_step
        self._starts = offset + rng.permutation(count) * self._settings.block_tokens
        self._epoch = epoch

    def batch(self, step: int, sequence_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, both int64 [tokens_per_step / sequence_tokens, sequence_tokens]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        first = within * self._settings.blocks_per_step
        size = self._settings.block_tokens
        starts = self._starts[first : first + self._settings.blocks_per_step]
        inputs = np.stack([self._tokens[start : start + size] for start in starts])
        targets = np.stack([self._tokens[start + 1 : start + size + 1] for start in starts])
        shape = (-1, sequence_tokens)
        return (
            torch.from_numpy(inputs.reshape(shape).astype(np.int64)),
            torch.from_numpy(targets.reshape(shape).astype(np.int64)),
        )


def training_documents(
    splits: data.Splits, tokenizer: PreTrainedTokenizerFast, settings: Settings
) -> tuple[list[np.ndarray], dict[str, int]]:
    """Token arrays that each end in end-of-text; library modules come `library_repeats` times per epoch."""
    library = [module.document for module in splits.training if not module.is_test]
    tests = [module.document for module in splits.training if module.is_test]
    chats = data.chat_documents(splits.training, settings.chat_share, settings.seed)
    end = tokenizer.convert_tokens_to_ids(data.END_OF_TEXT)

    def encode(texts: list[str]) -> list[np.ndarray]:
        encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array([*item.ids, end], dtype=np.int32) for item in encoded]

    parts = {"library": encode(library), "test": encode(tests), "chat": encode(chats)}
    counts = {f"{name}_tokens": sum(map(len, arrays)) for name, arrays in parts.items()}
    documents = parts["library"] * settings.library_repeats + parts["test"] + parts["chat"]
    return documents, counts | {"epoch_tokens": sum(map(len, documents))}
