"""What an export may lose before the gate says no, as ratios to the source: dimensionless, so that they mean the same for any model."""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.errors import UsageError


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits of the gate; every one is judged for every container, in the engine that ships.

    perplexity_loss: perplexity over the source's, minus one.
    same_top1: share of positions with the source's most likely token. Published pairs of KL divergence and agreement
        (llama.cpp, tools/perplexity: Llama-3-8B Q8_0 0.0014 and 97.7 %, Q6_K 0.0055 and 96.0 %, Q4_K_M 0.031 and 91.9 %, Q2_K
        0.33 and 71.1 %; our reference model in INT4 0.027 and 90.2 %) follow 1 - agreement = 0.45 to 0.63 times the root of
        the divergence. A perplexity 5 % worse is a divergence of about ln 1.05 = 0.049, hence 10 to 14 % changed tokens;
        85 % lies just outside of what the perplexity limit allows, at about the 0.072 of plain Q4_0 on Llama-3-8B.
    accuracy_retention: token accuracy over the source's.
    extra_loops: share of the prompts that may run into an endless loop although the source's answer does not; one prompt
        is always allowed, since greedy decoding tips over by chance.
    speed_ratio, memory_saving: deployment checks, against the 16-bit container of the same engine.
    latency_drift: median time per token of a second run to the end of the cache over that of the first.
    """

    perplexity_loss: float = 0.05
    same_top1: float = 0.85
    accuracy_retention: float = 0.95
    extra_loops: float = 0.25
    speed_ratio: float = 1.5
    memory_saving: float = 0.5
    latency_drift: float = 2.0

    def __post_init__(self) -> None:
        shares = (self.same_top1, self.accuracy_retention, self.extra_loops, self.memory_saving)
        if self.perplexity_loss < 0 or not all(0 <= share <= 1 for share in shares):
            raise UsageError(
                f"thresholds {self} are not possible",
                hint="shares lie between 0 and 1, a loss is 0 or more",
            )


DEFAULT_THRESHOLDS = Thresholds()
