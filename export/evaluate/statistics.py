"""Quality figures from per-token numbers, with llama.cpp's definitions but in float64 throughout.

perplexity = exp(mean nll), its error = perplexity * sqrt(var(nll) / (n - 1)); KL(source || export) per token over the whole
vocabulary (llama.cpp stores the base in 16 bits and cuts at 16 nats, which leaves a floor of about 5e-4; there is none here);
same_top1 = share of tokens with one argmax, with the binomial error; token_accuracy = share of tokens whose argmax is the text's
own next token. The paired error of the mean ln(PPL ratio) is llama.cpp's covariance-corrected one: the same number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.export.evaluate.classification import ClassificationReport
from edgeport.export.evaluate.generation import GenerationReport

Doubles = npt.NDArray[np.float64]

SMALLEST_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Per scored token: nll and base_nll [n] nats, kl [n] nats, same_top [n] bool, delta_p [n] = p - base_p of the true token.

    hit and base_hit [n] bool: the argmax is the true token, in the export and in the source.
    """

    nll: Doubles
    base_nll: Doubles
    kl: Doubles
    same_top: npt.NDArray[np.bool_]
    hit: npt.NDArray[np.bool_]
    base_hit: npt.NDArray[np.bool_]

    @property
    def delta_p(self) -> Doubles:
        return np.asarray(np.exp(-self.nll) - np.exp(-self.base_nll))


@dataclass(frozen=True, slots=True)
class Quality:
    """One container in one runtime against its source, on one text.

    The fields with a default are younger than the first manifests; None where such a manifest, or the request, has none.
    mean_log_ratio: mean nll minus the source's, in nats. correlation: of the two nll over the tokens. mean_delta_p: change of
    the true token's probability. token_accuracy_ratio: export over source.
    """

    runtime: str
    perplexity: float
    perplexity_error: float
    base_perplexity: float
    base_perplexity_error: float
    perplexity_ratio: float
    perplexity_ratio_error: float
    mean_kl_divergence: float
    kl_divergence_error: float
    kl_divergence_percentiles: dict[str, float]
    rms_delta_p: float
    same_top1: float
    same_top1_error: float
    tokens: int
    n_ctx: int
    chunks: int
    text_sha256: str
    mean_log_ratio: float | None = None
    mean_log_ratio_error: float | None = None
    correlation: float | None = None
    mean_delta_p: float | None = None
    mean_delta_p_error: float | None = None
    token_accuracy: float | None = None
    token_accuracy_error: float | None = None
    base_token_accuracy: float | None = None
    token_accuracy_ratio: float | None = None
    generation: GenerationReport | None = None
    classification: ClassificationReport | None = None


def log_softmax(logits: npt.NDArray[np.floating]) -> Doubles:
    """Rows [n, vocab_size] -> log probabilities in float64."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def score(
    logits: npt.NDArray[np.float32], base_log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]
) -> TokenScores:
    """Compare rows [n, vocab_size] of logits with the source's log probabilities; targets [n] are the true next tokens."""
    parts = []
    for start in range(0, len(targets), 64):  # a large vocabulary in float64 is 1 MB a row
        stop = start + 64
        got, base = log_softmax(logits[start:stop]), base_log_probs[start:stop].astype(np.float64)
        rows, truth = np.arange(len(got)), targets[start:stop]
        kl = (np.exp(base) * (base - got)).sum(axis=1)
        top, base_top = got.argmax(axis=1), base.argmax(axis=1)
        columns = (
            -got[rows, truth],
            -base[rows, truth],
            kl,
            top == base_top,
            top == truth,
            base_top == truth,
        )
        parts.append(TokenScores(*columns))
    return join(parts)


def join(scores: list[TokenScores]) -> TokenScores:
    columns = (
        np.concatenate([getattr(item, name) for item in scores])
        for name in ("nll", "base_nll", "kl", "same_top", "hit", "base_hit")
    )
    return TokenScores(*columns)


def summarize(scores: TokenScores, *, runtime: str, n_ctx: int, chunks: int, text_sha256: str) -> Quality:
    """All figures of one container. Raises ValueError for fewer than 100 tokens, which say nothing."""
    count = len(scores.nll)
    if count < SMALLEST_SAMPLE:
        raise ValueError(f"{count} scored tokens are too few, at least {SMALLEST_SAMPLE} are needed")
    perplexity, perplexity_error = _perplexity(scores.nll)
    base_perplexity, base_error = _perplexity(scores.base_nll)
    log_ratio = scores.nll - scores.base_nll
    ratio = float(np.exp(log_ratio.mean()))
    same = float(scores.same_top.mean())
    accuracy, base_accuracy = float(scores.hit.mean()), float(scores.base_hit.mean())
    levels = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9, "max": 100}
    return Quality(
        runtime=runtime,
        perplexity=perplexity,
        perplexity_error=perplexity_error,
        base_perplexity=base_perplexity,
        base_perplexity_error=base_error,
        perplexity_ratio=ratio,
        # of the paired differences: most of the two perplexities' errors is the text's and cancels
        perplexity_ratio_error=ratio * _standard_error(log_ratio),
        mean_kl_divergence=float(scores.kl.mean()),
        kl_divergence_error=_standard_error(scores.kl),
        kl_divergence_percentiles={
            name: float(np.percentile(scores.kl, level)) for name, level in levels.items()
        },
        rms_delta_p=float(np.sqrt(np.mean(scores.delta_p**2))),
        same_top1=same,
        same_top1_error=binomial_error(same, count),
        tokens=count,
        n_ctx=n_ctx,
        chunks=chunks,
        text_sha256=text_sha256,
        mean_log_ratio=float(log_ratio.mean()),
        mean_log_ratio_error=_standard_error(log_ratio),
        correlation=_correlation(scores.nll, scores.base_nll),
        mean_delta_p=float(scores.delta_p.mean()),
        mean_delta_p_error=_standard_error(scores.delta_p),
        token_accuracy=accuracy,
        token_accuracy_error=binomial_error(accuracy, count),
        base_token_accuracy=base_accuracy,
        token_accuracy_ratio=accuracy / base_accuracy if base_accuracy else None,
    )


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` yes-or-no outcomes, with llama.cpp's n - 1."""
    return float(np.sqrt(share * (1 - share) / (count - 1))) if count > 1 else 0.0


def _perplexity(nll: Doubles) -> tuple[float, float]:
    value = float(np.exp(nll.mean()))
    return value, value * _standard_error(nll)


def _correlation(first: Doubles, second: Doubles) -> float | None:
    """Pearson's; None when one of them does not vary."""
    spread = first.std() * second.std()
    return float(np.mean((first - first.mean()) * (second - second.mean())) / spread) if spread else None


def _standard_error(values: Doubles) -> float:
    return float(np.sqrt(values.var() / (len(values) - 1)))
