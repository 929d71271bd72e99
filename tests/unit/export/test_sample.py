"""Calibration text that the model writes itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import DoesNotFit, UnsupportedModel
from edgeport.export.calibrate import sample
from edgeport.export.calibrate.sample import GREEDY_TOKENS, sample_tokens
from edgeport.export.calibrate.sources import load_calibration
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS


def test_the_same_bytes_twice_and_others_for_another_seed(tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    first = sample_tokens(source, 18, 24, 7, 1, NO_PROGRESS)  # more than one batch
    assert first.shape == (18, 24) and first.dtype == np.int64
    assert first.min() >= 0 and first.max() < source.spec.vocab_size
    assert np.array_equal(first, sample_tokens(source, 18, 24, 7, 1, NO_PROGRESS))
    assert not np.array_equal(first, sample_tokens(source, 18, 24, 8, 1, NO_PROGRESS))
    assert (first[:, 0] == 0).all(), "the begin token"
    assert len(set(first[:, 1].tolist())) > 10, "first tokens are drawn over the vocabulary"
    assert (first[:, 1] > 2).all(), "and are no special tokens"


def test_greedy_first_then_drawn_from_the_models_distribution(tiny_qwen2_dir: Path) -> None:
    """Against transformers' own forward pass over the finished windows."""
    import torch
    from transformers import AutoModelForCausalLM

    source = open_source(str(tiny_qwen2_dir))
    windows = sample_tokens(source, 16, 64, 0, 1, NO_PROGRESS)
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen2_dir, dtype=torch.float32).eval()
    with torch.inference_mode():
        log_probs = torch.log_softmax(model(torch.from_numpy(windows)).logits, dim=-1).numpy()[:, :-1]
    most_likely = log_probs.argmax(axis=-1)
    assert np.array_equal(most_likely[:, :GREEDY_TOKENS], windows[:, 1 : 1 + GREEDY_TOKENS])
    # What is drawn from p has the mean surprise H(p); greedy text has much less, top-k text has less too.
    drawn = np.take_along_axis(log_probs, windows[:, 1:, None], axis=-1)[:, GREEDY_TOKENS:, 0]
    entropy = -(np.exp(log_probs) * log_probs).sum(axis=-1)[:, GREEDY_TOKENS:]
    spread = math.sqrt(drawn.size)
    assert abs(-drawn.mean() - entropy.mean()) < 4 * drawn.std() / spread
    assert -log_probs.max(axis=-1)[:, GREEDY_TOKENS:].mean() < 0.8 * entropy.mean(), (
        "a greedy text would be told apart"
    )


def test_through_load_calibration(tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    text = load_calibration("self", source, tokens=50, n_ctx=20, heldout=None, progress=NO_PROGRESS)
    assert text.windows.shape == (3, 20)
    assert "sampled from the model" in text.origin and "seed 0" in text.origin


def test_the_models_generation_config_has_no_say(tiny_llama_dir: Path, edited: Any) -> None:
    plain = sample_tokens(open_source(str(tiny_llama_dir)), 4, 16, 0, 1, NO_PROGRESS)
    copy = edited(tiny_llama_dir)
    (copy / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.01, "top_k": 1, "eos_token_id": [3, 4, 5], "max_new_tokens": 2}'
    )
    assert np.array_equal(plain, sample_tokens(open_source(str(copy)), 4, 16, 0, 1, NO_PROGRESS))


def test_a_window_shorter_than_the_greedy_start(tiny_llama_dir: Path) -> None:
    assert sample_tokens(open_source(str(tiny_llama_dir)), 2, 3, 0, 1, NO_PROGRESS).shape == (2, 3)


def test_a_damaged_model_is_refused(tiny_llama_dir: Path, edited: Any) -> None:
    def damage(state: dict[str, Any]) -> None:
        state["model.norm.weight"][0] = math.nan

    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        sample_tokens(open_source(str(edited(tiny_llama_dir, tensors=damage))), 2, 16, 0, 1, NO_PROGRESS)


def test_a_model_beyond_the_memory_is_refused_with_numbers(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(tiny_llama_dir))
    monkeypatch.setattr(sample, "_free_bytes", lambda: 1000)
    with pytest.raises(DoesNotFit, match="float32.*1000 B|float32.*free"):
        sample_tokens(source, 2, 16, 0, 1, NO_PROGRESS)
