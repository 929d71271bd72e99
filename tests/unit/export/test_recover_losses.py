"""The losses against formulas written with numpy, and their gradients against those of the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeport.export.recover.losses import (
    FullTarget,
    LossSettings,
    TopKTarget,
    coarsened,
    layer_pairs,
    measure_losses,
    soft_divergence,
)
from edgeport.export.recover.student import StudentOutput
from edgeport.export.recover.teacher_cache import coarsen

VOCAB, BATCH, N_CTX = 50, 3, 7


@pytest.fixture
def logits() -> tuple[Any, Any, Any]:
    """(student, teacher, tokens), distributions far from uniform."""
    generator = np.random.default_rng(0)
    student, teacher = (3 * generator.standard_normal((BATCH, N_CTX, VOCAB)) for _ in range(2))
    return student, teacher, generator.integers(0, VOCAB, (BATCH, N_CTX))


def softmax(values: Any) -> Any:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def measured(student: Any, teacher: Any, tokens: Any, settings: LossSettings) -> Any:
    target = None if teacher is None else FullTarget(torch.tensor(teacher))
    return measure_losses(StudentOutput(torch.tensor(student)), target, torch.tensor(tokens), settings)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_mix_is_hintons(logits: Any, temperature: float) -> None:
    student, teacher, tokens = logits
    p, q = softmax(teacher[:, :-1] / temperature), softmax(student[:, :-1] / temperature)
    soft = (p * (np.log(p) - np.log(q))).sum(axis=-1).mean()
    chosen = np.take_along_axis(softmax(student[:, :-1]), tokens[:, 1:, None], axis=-1)
    hard = -np.log(chosen).mean()
    found = measured(student, teacher, tokens, LossSettings(alpha=0.7, temperature=temperature))
    assert float(found.hard) == pytest.approx(hard, rel=1e-6)
    assert float(found.soft) == pytest.approx(soft, rel=1e-6)
    assert float(found.total) == pytest.approx(0.7 * temperature**2 * soft + 0.3 * hard, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_the_difference_of_distributions(logits: Any, temperature: float) -> None:
    student, teacher, tokens = logits
    leaf = torch.tensor(student, requires_grad=True)
    settings = LossSettings(alpha=0.6, temperature=temperature)
    target = FullTarget(torch.tensor(teacher))
    measure_losses(StudentOutput(leaf), target, torch.tensor(tokens), settings).total.backward()
    difference = softmax(student / temperature) - softmax(teacher / temperature)
    hard = softmax(student)
    np.put_along_axis(
        hard[:, :-1],
        tokens[:, 1:, None],
        np.take_along_axis(hard[:, :-1], tokens[:, 1:, None], axis=-1) - 1,
        axis=-1,
    )
    wanted = (0.6 * temperature * difference + 0.4 * hard) / (BATCH * (N_CTX - 1))
    wanted[:, -1] = 0  # nothing comes behind the last token
    np.testing.assert_allclose(leaf.grad, wanted, atol=1e-7)


def test_a_student_that_says_the_same_has_nothing_to_learn(logits: Any) -> None:
    _, teacher, tokens = logits
    shifted = teacher + np.arange(N_CTX)[:, None]  # the same distribution
    found = measured(shifted, teacher, tokens, LossSettings(alpha=1.0, logit_weight=1.0))
    assert float(found.total) == pytest.approx(0, abs=1e-6)
    assert float(measured(-teacher, teacher, tokens, LossSettings(alpha=1.0)).total) > 1


def test_logits_are_compared_without_their_mean(logits: Any) -> None:
    student, teacher, tokens = logits
    difference = (student - teacher)[:, :-1]
    difference -= difference.mean(axis=-1, keepdims=True)
    plain = measured(student, teacher, tokens, LossSettings(alpha=0.5))
    found = measured(student, teacher, tokens, LossSettings(alpha=0.5, logit_weight=0.25))
    assert float(found.total - plain.total) == pytest.approx(0.25 * (difference**2).mean(), rel=1e-5)


def test_without_a_teacher_only_the_text_counts(logits: Any) -> None:
    student, _, tokens = logits
    found = measured(student, None, tokens, LossSettings(alpha=0.0))
    assert found.soft is None
    assert float(found.total) == float(found.hard)


def test_padding_beyond_the_teachers_vocabulary_takes_no_part(logits: Any) -> None:
    student, teacher, tokens = logits
    padded = np.concatenate([student, np.full((BATCH, N_CTX, 6), 5.0)], axis=-1)
    wanted = measured(student, teacher, tokens, LossSettings(alpha=1.0, temperature=2.0))
    found = measured(padded, teacher, tokens, LossSettings(alpha=1.0, temperature=2.0))
    assert float(found.soft) == pytest.approx(float(wanted.soft), rel=1e-6)
    wider_teacher = np.concatenate([teacher, np.full((BATCH, N_CTX, 6), 5.0)], axis=-1)
    again = measured(student, wider_teacher, tokens, LossSettings(alpha=1.0, temperature=2.0))
    assert float(again.soft) == pytest.approx(float(wanted.soft), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 8, VOCAB - 1])
def test_top_k_is_the_exact_divergence_of_the_coarsened_distribution(
    logits: Any, k: int, temperature: float
) -> None:
    student, teacher, tokens = logits
    settings = LossSettings(alpha=1.0, temperature=temperature)
    target = coarsen(torch.tensor(teacher), k, temperature)
    found = measure_losses(StudentOutput(torch.tensor(student)), target, torch.tensor(tokens), settings)
    p, q = softmax(teacher[:, :-1] / temperature), softmax(student[:, :-1] / temperature)
    order = np.argsort(-p, axis=-1)
    p, q = np.take_along_axis(p, order, axis=-1), np.take_along_axis(q, order, axis=-1)
    p, q = (np.concatenate([x[..., :k], x[..., k:].sum(axis=-1, keepdims=True)], axis=-1) for x in (p, q))
    wanted = (p * np.log(p / q)).sum(axis=-1).mean()
    assert float(found.soft) == pytest.approx(wanted, rel=1e-5)
    full = measured(student, teacher, tokens, settings)
    assert float(found.soft) <= float(full.soft) * (1 + 1e-6)  # coarsening never adds information
    if k == VOCAB - 1:
        assert float(found.soft) == pytest.approx(float(full.soft), rel=1e-5)


def test_a_rest_of_next_to_nothing_keeps_its_digits() -> None:
    values = np.zeros(VOCAB)
    values[3] = 60.0
    found = coarsened(torch.tensor(values, dtype=torch.float32), torch.tensor([3]))
    assert float(found[1]) == pytest.approx(np.log(VOCAB - 1) - 60, rel=1e-6)


def test_top_k_of_another_distribution_is_not_mistaken_for_the_same(logits: Any) -> None:
    student, teacher, tokens = logits
    target = coarsen(torch.tensor(teacher), 5, 1.0)
    wrong = TopKTarget(target.log_probabilities, (target.indices + 1) % VOCAB)
    settings = LossSettings(alpha=1.0)
    said = StudentOutput(torch.tensor(teacher))
    assert float(measure_losses(said, target, torch.tensor(tokens), settings).total) < 1e-6
    assert float(measure_losses(said, wrong, torch.tensor(tokens), settings).total) > 1


def test_hidden_states_are_compared_layer_by_layer(logits: Any) -> None:
    student, teacher, tokens = logits
    generator = np.random.default_rng(1)
    mine = [generator.standard_normal((BATCH, N_CTX, 4)) for _ in range(3)]  # 2 layers
    theirs = [generator.standard_normal((BATCH, N_CTX, 4)) for _ in range(5)]  # 4 layers
    errors = [((mine[a] - theirs[b]) ** 2).mean() / (theirs[b] ** 2).mean() for a, b in ((1, 2), (2, 4))]
    output = StudentOutput(torch.tensor(student), tuple(map(torch.tensor, mine)))
    target = FullTarget(torch.tensor(teacher), tuple(map(torch.tensor, theirs)))
    found = measure_losses(output, target, torch.tensor(tokens), LossSettings(alpha=0.0, hidden_weight=2.0))
    assert float(found.total - found.hard) == pytest.approx(2 * np.mean(errors), rel=1e-5)


def test_layers_are_mapped_evenly_and_the_last_meets_the_last() -> None:
    assert layer_pairs(6, 6) == [(n, n) for n in range(1, 7)]
    assert layer_pairs(3, 6) == [(1, 2), (2, 4), (3, 6)]
    assert layer_pairs(5, 6)[-1] == (5, 6)
    assert len({theirs for _, theirs in layer_pairs(5, 6)}) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings", [LossSettings(alpha=0.0), LossSettings(alpha=0.4), LossSettings(alpha=1.0, temperature=2.0)]
)
def test_the_walk_over_few_rows_gives_what_autograd_gives(
    logits: Any, settings: LossSettings, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeport.export.recover.mixed_entropy._PIECE_BYTES", 4 * VOCAB * 4)  # 4 of 6 rows
    student, teacher, tokens = logits
    leaf = torch.tensor(student, dtype=dtype, requires_grad=True)
    wanted = torch.tensor(teacher, dtype=dtype)
    target = FullTarget(wanted) if settings.needs_teacher else None
    found = measure_losses(StudentOutput(leaf), target, torch.tensor(tokens), settings)
    (3 * found.total).backward()
    plain = leaf.detach().clone().requires_grad_()
    scaled = plain[:, :-1].double() / settings.temperature
    soft = soft_divergence(scaled, FullTarget(wanted.double()), settings.temperature)
    hard = torch.nn.functional.cross_entropy(
        plain[:, :-1].double().flatten(0, 1), torch.tensor(tokens)[:, 1:].flatten()
    )
    total = settings.alpha * settings.temperature**2 * soft + (1 - settings.alpha) * hard
    (3 * total).backward()
    assert found.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert leaf.grad is not None and leaf.grad.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-3
    np.testing.assert_allclose(leaf.grad.float(), plain.grad.float(), atol=tolerance)  # type: ignore[union-attr]


def test_measuring_keeps_no_gradient(logits: Any) -> None:
    student, teacher, tokens = logits
    with torch.no_grad():
        found = measured(student, teacher, tokens, LossSettings(alpha=0.5))
    assert not found.total.requires_grad
    assert float(found.total) == pytest.approx(0.5 * float(found.soft) + 0.5 * float(found.hard))
