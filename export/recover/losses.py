"""What a student is trained on: its teacher's distribution, the text itself, or both.

Knowledge distillation after Hinton et al. 2015 (arXiv:1503.02531): with teacher p and student q at temperature T,

    alpha * T**2 * KL(p_T || q_T)  +  (1 - alpha) * cross entropy with the next token

T**2 keeps the gradient's size while the temperature changes. On top, when their weights are above zero: mean squared error
of centred logits (what the first term becomes as T grows), and of hidden states layer by layer, relative to the teacher's
mean square, as TinyBERT does (arXiv:1909.10351). Everything is a mean over positions, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeport.export.recover.mixed_entropy import mixed_cross_entropy
from edgeport.export.recover.student import StudentOutput

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LossSettings:
    """alpha: weight of the teacher's distribution, 1 - alpha that of the text."""

    alpha: float = 1.0
    temperature: float = 1.0
    logit_weight: float = 0.0
    hidden_weight: float = 0.0

    @property
    def needs_teacher(self) -> bool:
        return self.alpha > 0 or self.logit_weight > 0 or self.hidden_weight > 0


@dataclass(frozen=True, slots=True)
class FullTarget:
    """What a teacher answered: logits [batch, n_ctx, vocab_size] and, where wanted, hidden states as a student's."""

    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass(frozen=True, slots=True)
class TopKTarget:
    """The teacher's distribution at the loss's temperature, coarsened to its k likeliest tokens and one bucket for the rest.

    log_probabilities: [batch, n_ctx, k + 1], the rest last; indices: [batch, n_ctx, k].
    """

    log_probabilities: torch.Tensor
    indices: torch.Tensor


Target = FullTarget | TopKTarget


@dataclass(frozen=True, slots=True)
class Losses:
    """total has the gradient; hard and soft (None without a teacher's distribution) are for the eye, in nats per token."""

    total: torch.Tensor
    hard: torch.Tensor
    soft: torch.Tensor | None


def measure_losses(
    output: StudentOutput, target: Target | None, tokens: torch.Tensor, settings: LossSettings
) -> Losses:
    """Positions 0 .. n_ctx - 2 predict the token behind them; the last has no next token and counts for nothing."""
    import torch

    if target is None and not settings.needs_teacher:
        total, hard, _soft = mixed_cross_entropy(output.logits, None, tokens, settings)
        return Losses(total, hard, None)
    plain = settings.alpha > 0 and settings.logit_weight == 0 and settings.hidden_weight == 0
    if plain and isinstance(target, FullTarget) and target.logits.shape == output.logits.shape:
        return Losses(*mixed_cross_entropy(output.logits, target.logits, tokens, settings))
    logits = output.logits[:, :-1].float()
    log_probabilities = logits.log_softmax(dim=-1)
    hard = torch.nn.functional.nll_loss(log_probabilities.flatten(0, 1), tokens[:, 1:].flatten())
    total = (1 - settings.alpha) * hard
    soft = None
    if target is not None and settings.alpha > 0:
        # At temperature 1 the logarithms are there: over a large vocabulary they are dear.
        scaled = log_probabilities if settings.temperature == 1 else logits / settings.temperature
        soft = soft_divergence(scaled, target, settings.temperature)
        total = total + settings.alpha * settings.temperature**2 * soft
    if isinstance(target, FullTarget):
        if settings.logit_weight > 0:
            total = total + settings.logit_weight * centred_error(logits, target.logits[:, :-1].float())
        if settings.hidden_weight > 0:
            total = total + settings.hidden_weight * hidden_error(output, target)
    return Losses(total, hard, soft)


def soft_divergence(scaled: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
    """KL(teacher || student) at `temperature`, a mean over positions.

    scaled: the student's logits over the temperature, up to a constant for each position, [batch, n_ctx - 1, vocab_size]
    float32; ids beyond the teacher's take no part.
    """
    import torch

    if isinstance(target, FullTarget):
        wanted = target.logits[:, :-1, : scaled.shape[-1]].float()
        wanted = (wanted if temperature == 1 else wanted / temperature).log_softmax(dim=-1)
        got = scaled[..., : wanted.shape[-1]]
        got = got - got.logsumexp(dim=-1, keepdim=True)
    else:
        wanted = target.log_probabilities[:, :-1]
        got = coarsened(scaled, target.indices[:, :-1])
    summed = torch.nn.functional.kl_div(got, wanted, log_target=True, reduction="sum")
    return summed / (wanted.shape[0] * wanted.shape[1])


def coarsened(logits: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Log probabilities [..., k + 1] of the tokens in `indices` and, last, of all other tokens together.

    The rest is summed up from the other logits: one minus the sum of the first would lose its digits when it is small.
    """
    import torch

    whole = logits.logsumexp(dim=-1, keepdim=True)
    rest = logits.scatter(-1, indices, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([logits.gather(-1, indices), rest], dim=-1) - whole


def centred_error(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of logits whose mean over the vocabulary is taken out, which no probability depends on."""
    size = min(logits.shape[-1], wanted.shape[-1])
    difference = logits[..., :size] - wanted[..., :size]
    return (difference - difference.mean(dim=-1, keepdim=True)).square().mean()


def hidden_error(output: StudentOutput, target: FullTarget) -> torch.Tensor:
    """Mean over the student's layers of |student - teacher|**2 / |teacher|**2, both [batch, n_ctx, hidden_size]."""
    import torch

    assert output.hidden_states is not None and target.hidden_states is not None
    pairs = layer_pairs(len(output.hidden_states) - 1, len(target.hidden_states) - 1)
    errors = []
    for mine, theirs in pairs:
        wanted = target.hidden_states[theirs].float()
        difference = output.hidden_states[mine].float() - wanted
        errors.append(difference.square().mean() / wanted.square().mean().clamp_min(1e-12))
    return torch.stack(errors).mean()


def layer_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """(student layer, teacher layer), both from 1, spread evenly; the last meets the last."""
    return [
        (layer, max(1, round(layer * teacher_layers / student_layers)))
        for layer in range(1, student_layers + 1)
    ]
