"""How sparsity grows over rounds (Zhu and Gupta 2017, arXiv:1710.01878, equation 1, from a dense start)."""

from __future__ import annotations


def cubic_schedule(sparsity: float, rounds: int) -> tuple[float, ...]:
    """Sparsity after each round: fast while much is superfluous, slow at the end; the last one is `sparsity`."""
    grown = [sparsity * (1 - (1 - number / rounds) ** 3) for number in range(1, rounds)]
    return (*grown, sparsity)
