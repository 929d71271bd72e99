"""Is the source itself sane? Ratios to a model that predicts nothing, or only NaN, mean nothing.

The source runs once, in float32, over a little text: in the numpy reference and layer by layer, so that neither torch nor
memory for the whole model is needed. Random weights, broken conversions and foreign tokenizers end at or above the
perplexity of guessing, which is the size of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.errors import EdgeportError
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra
from edgeport.manifest import from_json
from edgeport.progress import Progress
from edgeport.runtimes.isolation import run_isolated

SANE_SHARE_OF_CHANCE = 0.1
"""A model that knows the language at all is far below this share of the vocabulary; twins with random weights are at one."""
WINDOWS, WINDOW_TOKENS = 4, 256
KEPT_PARAMETERS = 200_000_000
"""Up to here the source is held in float32 while it runs; a larger one is read layer by layer for each window."""
PROBE = (
    "The town lies on both sides of a river, and its oldest bridge was built in the year 1432. Every spring the water rises "
    "by two metres, and people who live near the bank carry their chairs and books to the first floor. Nobody has been hurt "
    "for a long time. In summer there is a market on the square: bread, cheese, apples, and a man who repairs clocks.\n\n"
    "import os\n\n\ndef count_words(path: str) -> dict[str, int]:\n"
    '    """How often each word comes in a text file."""\n'
    "    counts: dict[str, int] = {}\n    with open(path, encoding='utf-8') as stream:\n        for line in stream:\n"
    "            for word in line.split():\n                counts[word] = counts.get(word, 0) + 1\n    return counts\n\n\n"
    "if __name__ == '__main__':\n    for name in sorted(os.listdir('.')):\n        print(name, len(count_words(name)))\n\n"
    "To make the soup, cut two onions and a carrot into small pieces, fry them in a little oil until they are soft, add a "
    "litre of water and some salt, and let everything cook for twenty minutes. It tastes better on the second day.\n"
)
"""Read where no held-out text is at hand: everyday English and Python, which any language model has seen."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The source on a little text. perplexity: None when its logits are not finite. chance: the vocabulary's size."""

    perplexity: float | None
    accuracy: float
    tokens: int
    chance: int

    @property
    def problem(self) -> str | None:
        """Why thresholds against this source would mean nothing; None when it is sane."""
        if self.perplexity is None:
            return "the source's own logits are not finite"
        if self.perplexity > SANE_SHARE_OF_CHANCE * self.chance:
            return (
                f"the source's perplexity on text is {self.perplexity:.0f}, guessing among its {self.chance} tokens gives "
                f"{self.chance}; a trained model is below {SANE_SHARE_OF_CHANCE * self.chance:.0f}"
            )
        return None


def measure_baseline(source: SourceModel, heldout: Path | None, progress: Progress) -> Baseline | str:
    """Run the source over held-out text, or over the built-in probe; a text says why that was not possible."""
    arguments = {
        "model": str(source.directory),
        "windows": _windows(source, heldout),
        "keep_weights": source.spec.parameters() <= KEPT_PARAMETERS,
    }
    try:
        with progress.stage("baseline"):
            found = run_isolated("edgeport.export.gate.baseline:source_baseline", arguments, timeout_s=None)
    except EdgeportError as error:
        return error.message
    baseline: Baseline = from_json(Baseline, found)
    return baseline


def _windows(source: SourceModel, heldout: Path | None) -> list[list[int]]:
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    tokenizer.no_truncation()
    begin = tokenizer.encode("").ids
    text = (
        heldout.read_text(encoding="utf-8")[: WINDOWS * WINDOW_TOKENS * 16] if heldout is not None else PROBE
    )
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    length = min(WINDOW_TOKENS, source.spec.context_length) - len(begin)
    cut = [tokens[start : start + length] for start in range(0, len(tokens), length)]
    whole = [begin + piece for piece in cut if len(piece) == length] or [begin + tokens]
    return whole[:WINDOWS]


def source_baseline(model: str, windows: list[list[int]], *, keep_weights: bool) -> dict[str, Any]:
    """In a child process: next-token figures over windows of tokens; the first quarter of each is context only."""
    from edgeport.runtimes.reference import ReferenceSession
    from edgeport.runtimes.session import SessionOptions

    longest = max(len(window) for window in windows)
    session = ReferenceSession(Path(model), SessionOptions(context_length=longest), keep_weights=keep_weights)
    surprise, hits = [], []
    for window in windows:
        first = len(window) // 4
        session.rewind(0)
        logits = session.feed(window[:-1], all_logits=True)[first:].astype(np.float64)
        truth = np.array(window[first + 1 :])
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(truth)), truth]
        surprise.append(np.log(np.exp(logits).sum(axis=1)) - chosen)
        hits.append(logits.argmax(axis=1) == truth)
    vocab_size = session.vocab_size
    session.close()
    mean = float(np.concatenate(surprise).mean())
    hit = np.concatenate(hits)
    return {
        "perplexity": math.exp(min(mean, 700.0)) if math.isfinite(mean) else None,
        "accuracy": float(hit.mean()),
        "tokens": len(hit),
        "chance": vocab_size,
    }
