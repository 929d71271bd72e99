"""Quality figures against torch's own losses, and the cases in which they must say no."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgeport.export.evaluate.statistics import join, log_softmax, score, summarize


def _logits(seed: int, rows: int = 300, vocab: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (rows, vocab)).astype(np.float32)


def _summary(logits: np.ndarray, base: np.ndarray, targets: np.ndarray):
    scores = score(logits, log_softmax(base).astype(np.float32), targets)
    return summarize(scores, runtime="test", n_ctx=512, chunks=1, text_sha256="0")


def test_perplexity_and_divergence_equal_torch() -> None:
    base, got = _logits(1), _logits(1) + 0.3 * _logits(2)
    targets = np.random.default_rng(3).integers(0, 50, 300)
    quality = _summary(got, base, targets)
    truth = torch.from_numpy(targets)
    nll = torch.nn.functional.cross_entropy(torch.from_numpy(got).double(), truth)
    log_got, log_base = (torch.from_numpy(item).double().log_softmax(-1) for item in (got, base))
    kl = torch.nn.functional.kl_div(log_got, log_base, reduction="batchmean", log_target=True)
    assert quality.perplexity == pytest.approx(math.exp(nll), rel=1e-9)
    assert quality.mean_kl_divergence == pytest.approx(float(kl), rel=1e-5)
    assert quality.same_top1 == pytest.approx(
        float((log_got.argmax(-1) == log_base.argmax(-1)).double().mean())
    )
    assert 0 < quality.perplexity_error < quality.perplexity
    assert quality.kl_divergence_percentiles["p50"] < quality.kl_divergence_percentiles["max"]


def test_a_model_compared_with_itself_loses_nothing() -> None:
    base = _logits(1)
    quality = _summary(base, base, np.zeros(300, dtype=np.int64))
    assert quality.mean_kl_divergence == pytest.approx(0, abs=1e-6)
    assert quality.same_top1 == 1 and quality.perplexity_ratio == pytest.approx(1, abs=1e-6)


def test_a_destroyed_model_is_seen() -> None:
    base = _logits(1)
    quality = _summary(_logits(9), base, log_softmax(base).argmax(axis=1))
    assert quality.same_top1 < 0.2 and quality.mean_kl_divergence > 1 and quality.perplexity_ratio > 3


def test_a_constant_added_to_logits_changes_nothing() -> None:
    base, targets = _logits(1), np.zeros(300, dtype=np.int64)
    shifted = _summary(base + np.float32(100), base, targets)
    assert shifted.mean_kl_divergence == pytest.approx(0, abs=1e-5)


def test_errors_shrink_with_the_square_root_of_the_sample() -> None:
    few = _summary(_logits(1, 1000), _logits(2, 1000), np.zeros(1000, dtype=np.int64))
    many = _summary(_logits(1, 16000), _logits(2, 16000), np.zeros(16000, dtype=np.int64))
    assert many.kl_divergence_error == pytest.approx(few.kl_divergence_error / 4, rel=0.2)


def test_too_few_tokens_say_nothing() -> None:
    base = _logits(1, rows=99)
    with pytest.raises(ValueError, match="99 scored tokens"):
        _summary(base, base, np.zeros(99, dtype=np.int64))


def test_joined_parts_score_like_the_whole() -> None:
    base, got, targets = _logits(1), _logits(2), np.arange(300) % 50
    log_base = log_softmax(base).astype(np.float32)
    parts = [
        score(got[at : at + 100], log_base[at : at + 100], targets[at : at + 100]) for at in (0, 100, 200)
    ]
    assert np.array_equal(join(parts).kl, score(got, log_base, targets).kl)
