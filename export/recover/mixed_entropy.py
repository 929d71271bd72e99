"""The usual loss of a distillation, and its gradient, in one walk over the logits.

Written with autograd's own operations it keeps some eight float32 copies of the logits, gigabytes for a large vocabulary, and each
is written to memory and read again. Here a few rows at a time stay in the cache until their gradient is there, which is all that is kept:

    d total / d logits = (alpha T (softmax(s / T) - softmax(t / T)) + (1 - alpha) (softmax(s) - one hot)) / positions
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from edgeport.export.recover.losses import LossSettings

_PIECE_BYTES = 1 << 20
"""float32 rows worked on at once: what a core's second-level cache holds."""


def mixed_cross_entropy(
    logits: torch.Tensor, wanted: torch.Tensor | None, tokens: torch.Tensor, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(total with a gradient, hard, soft), means over the positions that have a next token, in nats.

    logits, wanted: [batch, n_ctx, vocab_size] of student and teacher, any float type; tokens: [batch, n_ctx] int64.
    wanted None: the tokens alone count, as alpha 0 does, and soft is 0.
    """
    import torch

    class Mixed(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
            hard, soft = _walk(logits, wanted, tokens, settings, gradient)
            total = (1 - settings.alpha) * hard + settings.alpha * settings.temperature**2 * soft
            if gradient is not None:
                ctx.save_for_backward(gradient)
            ctx.mark_non_differentiable(hard, soft)
            return total, hard, soft

        @staticmethod
        def backward(ctx: Any, scale: torch.Tensor, *unused: torch.Tensor) -> torch.Tensor:
            (gradient,) = ctx.saved_tensors
            result: torch.Tensor = gradient * scale
            return result

    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = Mixed.apply(logits)
    return result


def _walk(
    logits: torch.Tensor,
    wanted: torch.Tensor | None,
    tokens: torch.Tensor,
    settings: LossSettings,
    gradient: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean hard and soft loss; the gradient of the mixture is written into `gradient`, whose last positions stay 0."""
    import torch

    batch, n_ctx, vocab_size = logits.shape
    positions = batch * (n_ctx - 1)
    rows = max(1, _PIECE_BYTES // (4 * vocab_size))
    sums = torch.zeros(2, dtype=torch.float64)
    for row in range(batch):
        for start in range(0, n_ctx - 1, rows):
            piece = slice(start, min(start + rows, n_ctx - 1))
            following = tokens[row, piece.start + 1 : piece.stop + 1, None]
            own = logits[row, piece].float()
            if wanted is None:
                hard, soft, change = _text_piece(own, following)
            else:
                hard, soft, change = _piece(own, wanted[row, piece].float(), following, settings)
            sums += torch.stack([hard, soft]).double()
            if gradient is not None:
                gradient[row, piece] = change.div_(positions)
    hard, soft = (sums / positions).float()
    return hard, soft


def _piece(
    own: torch.Tensor, wanted: torch.Tensor, following: torch.Tensor, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summed losses and the gradient of the mixture for rows [rows, vocab_size]; following: [rows, 1]."""
    import torch

    alpha, temperature = settings.alpha, settings.temperature
    log_student = own.log_softmax(dim=-1)
    hard = -log_student.gather(-1, following).sum()
    change = log_student.exp()
    if temperature == 1:
        log_warm, warm = log_student, change
        log_teacher = wanted.log_softmax(dim=-1)
    else:
        log_warm = (own / temperature).log_softmax(dim=-1)
        warm = log_warm.exp()
        log_teacher = (wanted / temperature).log_softmax(dim=-1)
    teacher = log_teacher.exp()
    soft = torch.dot(teacher.flatten(), (log_teacher - log_warm).flatten())
    pull = (warm - teacher).mul_(alpha * temperature)
    change = change.mul_(1 - alpha).add_(pull) if alpha < 1 else pull
    change.scatter_add_(-1, following, torch.full_like(following, -(1 - alpha), dtype=change.dtype))
    return hard, soft, change


def _text_piece(
    own: torch.Tensor, following: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    log_student = own.log_softmax(dim=-1)
    hard = -log_student.gather(-1, following).sum()
    change = log_student.exp_()
    change.scatter_add_(-1, following, torch.full_like(following, -1.0, dtype=change.dtype))
    return hard, torch.zeros(()), change
