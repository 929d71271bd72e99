"""How much of the machine's memory bandwidth decoding uses: the one figure that says whether more speed is to be had.

Decoding one token reads every weight once, and the keys and values of all tokens before it; nothing can decode faster
than memory delivers these bytes, unless they stay in the cache. Williams, Waterman and Patterson, "Roofline", CACM 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["measured", "cache-resident", "unavailable"]


@dataclass(frozen=True, slots=True)
class Roofline:
    weight_bytes_per_token: int
    kv_bytes_per_token: int
    """Of the cache read for one token, at the mean depth of the run, in float16."""
    used_bytes_per_s: float
    bandwidth_bytes_per_s: float | None
    share: float | None
    """Used over measured bandwidth; None when the verdict is not "measured"."""
    verdict: Verdict

    @property
    def bytes_per_token(self) -> int:
        return self.weight_bytes_per_token + self.kv_bytes_per_token

    def __str__(self) -> str:
        return f"{self.share:.0%}" if self.share is not None else self.verdict


def mean_cache_entries(n_gen: int, n_depth: int = 0) -> float:
    """Tokens attended to, averaged over a run: the first sees itself and the depth, the last all of the run."""
    return n_depth + (n_gen + 1) / 2


def roofline(
    weight_bytes: int,
    kv_bytes: float,
    tokens_per_s: float,
    *,
    bandwidth_bytes_per_s: float | None,
    cache_bytes: int | None,
) -> Roofline:
    """Share of `bandwidth_bytes_per_s` that a decode rate means; a model that fits into the cache has no share."""
    used = (weight_bytes + kv_bytes) * tokens_per_s
    verdict: Verdict = "measured"
    if bandwidth_bytes_per_s is None:
        verdict = "unavailable"
    elif cache_bytes is not None and weight_bytes < cache_bytes:
        verdict = "cache-resident"
    share = used / bandwidth_bytes_per_s if bandwidth_bytes_per_s and verdict == "measured" else None
    return Roofline(
        weight_bytes_per_token=weight_bytes,
        kv_bytes_per_token=round(kv_bytes),
        used_bytes_per_s=used,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        share=share,
        verdict=verdict,
    )
