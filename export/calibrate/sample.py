"""Calibration text without text: the source model writes it, as in LLM-QAT (Liu et al. 2023, arXiv:2305.17888, section 2.1).

Each window starts with a token drawn evenly over the vocabulary (after the begin token, where the tokenizer adds one). The
next tokens are the most likely ones, the rest is drawn from the model's own distribution at temperature 1. The paper found
greedy text too uniform to train on, and text drawn from its very first token on too wild; its three to five greedy tokens
are four here. A window goes on past an end-of-text token, as packed training text does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.devices.probe import read_host
from edgeport.errors import DoesNotFit, UnsupportedModel
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.progress import Progress, Stage
from edgeport.units import format_bytes

if TYPE_CHECKING:
    import torch

GREEDY_TOKENS = 4
_BATCH_WINDOWS = 16
"""Windows written side by side: a decoding step reads all weights once for all of them."""

Tokens = npt.NDArray[np.int64]


def sample_tokens(
    source: SourceModel, windows: int, n_ctx: int, seed: int, threads: int, progress: Progress
) -> Tokens:
    """Token ids [windows, n_ctx] that the float32 source model writes; the same for the same seed, threads and machine.

    Raises MissingExtra without torch and transformers, DoesNotFit when the float32 model exceeds the free memory, and
    UnsupportedModel when its logits are not finite.
    """
    _check_memory(source)
    with missing_extra("eval", purpose="sampling calibration text from the model"):
        import torch
        from transformers import GenerationConfig
        from transformers.utils import logging

        from edgeport.export.families.network import load_network
    logging.disable_progress_bar()  # ours tells more
    torch.set_num_threads(threads)
    prompts = _prompts(source, windows, n_ctx, seed)
    with progress.stage("sample calibration text", total=windows * n_ctx) as stage, torch.random.fork_rng():
        torch.manual_seed(seed)
        model = load_network(source.directory, dtype=torch.float32)
        # The model's own may bring top-k, penalties and an end token, and fills what another leaves open.
        model.generation_config = GenerationConfig()
        written = [
            _write(model, torch.from_numpy(prompts[start : start + _BATCH_WINDOWS]), n_ctx, source, stage)
            for start in range(0, windows, _BATCH_WINDOWS)
        ]
    return np.concatenate(written)


def _check_memory(source: SourceModel) -> None:
    needed_bytes, available_bytes = 4 * source.spec.parameters(), _free_bytes()
    if needed_bytes > available_bytes:
        raise DoesNotFit(
            f"sampling needs the whole model in float32, {format_bytes(needed_bytes)}; {format_bytes(available_bytes)} are free",
            hint="calibrate on a text file or on the embedded text, which reads one layer at a time",
        )


def _free_bytes() -> int:
    return read_host().available_bytes


def _prompts(source: SourceModel, windows: int, n_ctx: int, seed: int) -> Tokens:
    """Begin token, if any, and a first token over the ordinary vocabulary: [windows, prompt tokens]."""
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    encoded = tokenizer.encode("a")
    begin = encoded.ids[: list(encoded.special_tokens_mask).index(0)]
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    size = source.spec.vocab_size
    ordinary = [
        number for number in tokenizer.get_vocab().values() if number < size and number not in special
    ]
    first = np.random.default_rng(seed).choice(np.sort(np.array(ordinary, dtype=np.int64)), windows)
    prompts = np.empty((windows, len(begin) + 1), dtype=np.int64)
    prompts[:, :-1] = begin
    prompts[:, -1] = first
    return prompts[:, :n_ctx]


def _write(model: Any, prompts: torch.Tensor, n_ctx: int, source: SourceModel, stage: Stage) -> Tokens:
    """Greedy up to the fourth new token, sampled from there to n_ctx."""
    ids = prompts
    for length, sampled in ((min(prompts.shape[1] + GREEDY_TOKENS, n_ctx), False), (n_ctx, True)):
        if ids.shape[1] < length:
            ids = _continue(model, ids, length, sampled=sampled, stage=stage)
    if ids.shape != (len(prompts), n_ctx):
        raise UnsupportedModel(f"{source.name} wrote {tuple(ids.shape)} tokens instead of {n_ctx} per window")
    return np.asarray(ids.numpy(), dtype=np.int64)


def _continue(model: Any, ids: torch.Tensor, length: int, *, sampled: bool, stage: Stage) -> torch.Tensor:
    import torch
    from transformers import GenerationConfig

    def count(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Asked after each step whether to stop: never, but it tells that a step is done."""
        del scores
        stage.advance(len(tokens))
        return torch.zeros(len(tokens), dtype=torch.bool)

    config = GenerationConfig(max_length=length, do_sample=sampled, use_cache=True)
    if sampled:
        config.temperature, config.top_k, config.top_p = 1.0, 0, 1.0
    try:
        with torch.inference_mode():
            written: torch.Tensor = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                stopping_criteria=[count],
            )
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        raise UnsupportedModel(
            "the source model's logits are NaN or infinite",
            hint="its weights are damaged: no quantization will mend it",
        ) from error
    return written
