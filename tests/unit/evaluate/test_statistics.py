"""Quality figures against torch's own losses, and the cases in which they must say no."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from edgeport.export.evaluate.statistics import Quality, join, log_softmax, score, summarize
from edgeport.manifest import from_json, to_json


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


def test_right_tokens_are_counted_in_both_models() -> None:
    base = _logits(1)
    truth = base.argmax(axis=1)
    truth[:75] = (truth[:75] + 1) % 50  # the source is wrong on a quarter
    perfect = np.zeros_like(base)
    perfect[np.arange(300), truth] = 5
    quality = _summary(perfect, base, truth)
    assert (quality.token_accuracy, quality.base_token_accuracy) == (1, 0.75)
    assert quality.token_accuracy_ratio == pytest.approx(4 / 3) and quality.token_accuracy_error == 0
    hopeless = _summary(-perfect, base, truth)
    assert hopeless.token_accuracy == 0 and hopeless.token_accuracy_ratio == 0


def test_log_ratio_has_the_covariance_corrected_error_of_llama_cpp() -> None:
    """llama.cpp adds the variances of the two means and takes off twice their covariance."""
    base, got = _logits(1), _logits(1) + 0.5 * _logits(2)
    targets = np.random.default_rng(3).integers(0, 50, 300)
    quality = _summary(got, base, targets)
    nll, base_nll = (-log_softmax(item)[np.arange(300), targets] for item in (got, base))
    covariance = np.cov(nll, base_nll, bias=True) / 299
    corrected = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert quality.mean_log_ratio == pytest.approx(float(np.mean(nll - base_nll)), rel=1e-4)
    assert quality.mean_log_ratio_error == pytest.approx(corrected, rel=1e-4)
    assert quality.correlation == pytest.approx(float(np.corrcoef(nll, base_nll)[0, 1]), rel=1e-4)
    assert math.log(quality.perplexity_ratio) == pytest.approx(quality.mean_log_ratio)
    delta = np.exp(-nll) - np.exp(-base_nll)
    assert quality.mean_delta_p == pytest.approx(float(delta.mean()), rel=1e-3)
    assert quality.mean_delta_p_error == pytest.approx(float(delta.std() / math.sqrt(299)), rel=1e-3)


def test_figures_of_an_older_manifest_are_still_read() -> None:
    """Before the fields with defaults existed; and a manifest with everything comes back as it was."""
    quality = _summary(_logits(2), _logits(1), np.zeros(300, dtype=np.int64))
    document = to_json(quality)
    assert from_json(Quality, json.loads(json.dumps(document))) == quality
    young = [item.name for item in dataclasses.fields(Quality) if item.default is None]
    assert len(young) >= 11
    old = from_json(Quality, {key: value for key, value in document.items() if key not in young})
    assert old.perplexity == quality.perplexity and old.token_accuracy is None and old.generation is None
    with pytest.raises(KeyError, match="perplexity is missing"):
        from_json(Quality, {key: value for key, value in document.items() if key != "perplexity"})
