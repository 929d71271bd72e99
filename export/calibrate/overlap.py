"""Held-out text is never calibrated on: find passages that calibration windows and held-out text have in common.

Text is compared as GPT-4's contamination check compares it (OpenAI, "GPT-4 Technical Report", arXiv:2303.08774, appendix C):
letters and digits only, runs of 50 of them. That sees through re-wrapped lines, other indentation and another tokenizer,
and needs no words, so it holds for Chinese as for Python; GPT-3's 13-grams of words (arXiv:2005.14165, appendix C) are about
as long. A run of hits is one shared passage. Calibration is refused when

- one passage has 300 characters or more, about 80 tokens; or
- passages of 50 and more make up 5 % of the calibration text.

Notices of licence, up to 3000 characters, count for neither: every file of a project carries the same one. Measured against
the reference model's held-out text (36 modules of Python's standard library), the 704 other library modules share no passage above 279
characters but licence notices, with one exception that deserves its refusal: wave.py, which holds a copy of chunk.py. The
reference model's calibration text shares 111 characters at most, and 0.5 % in all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError

RUN_CHARACTERS = 50
LONGEST_PASSAGE = 300
LARGEST_SHARE = 0.05
_NOTICE = re.compile(r"copyright|licen[cs]e|permission to use|warrant|liab(le|ility)|damages", re.IGNORECASE)
_LONGEST_NOTICE = 3000
_SHOWN_CHARACTERS = 160
_SPREAD, _BASE = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
"""Odd constants: characters are spread over 64 bits, and a hash is a polynomial in the base, modulo 2**64."""

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Passage:
    """A shared passage: letters and digits in it, and how it reads in the calibration text."""

    characters: int
    text: str

    @property
    def is_notice(self) -> bool:
        return self.characters <= _LONGEST_NOTICE and _NOTICE.search(self.text) is not None


@dataclass(frozen=True, slots=True)
class Overlap:
    """passages: longest first, notices of licence left out; share: of the calibration text's letters and digits."""

    passages: tuple[Passage, ...]
    share: float

    @property
    def is_too_much(self) -> bool:
        longest = self.passages[0].characters if self.passages else 0
        return longest >= LONGEST_PASSAGE or self.share >= LARGEST_SHARE


def find_overlap(texts: Sequence[str], heldout: str) -> Overlap:
    """What `texts` (one per window, so that no passage crosses a border) share with the held-out text."""
    passages: list[Passage] = []
    total = 0
    for letters, found in shared_passages(texts, heldout):
        total += letters
        passages.extend(found)
    passages.sort(key=lambda item: -item.characters)
    return Overlap(tuple(passages), sum(item.characters for item in passages) / max(total, 1))


def shared_passages(texts: Iterable[str], heldout: str) -> Iterator[tuple[int, list[Passage]]]:
    """For each text its number of letters and digits, and the passages it shares with `heldout`, without notices."""
    known = np.unique(run_hashes(_letters(heldout)[0]))
    for text in texts:
        letters, positions = _letters(text)
        passages = []
        for start, stop in _runs(_is_known(run_hashes(letters), known)):
            last = stop + RUN_CHARACTERS - 1
            passages.append(Passage(last - start, text[positions[start] : positions[last - 1] + 1]))
        yield len(letters), [item for item in passages if not item.is_notice]


def refuse_overlap(texts: Sequence[str], heldout: str, *, origin: str, heldout_name: str) -> None:
    """Raises UsageError, quoting the longest shared passage, when `texts` share too much with the held-out text."""
    overlap = find_overlap(texts, heldout)
    if not overlap.is_too_much:
        return
    longest = overlap.passages[0]
    shown = " ".join(longest.text.split())
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + " ..."
    raise UsageError(
        f"calibration text ({origin}) shares {overlap.share:.1%} of its letters with the held-out text {heldout_name}, "
        f"{longest.characters} in one passage (allowed: {LARGEST_SHARE:.0%}, and {LONGEST_PASSAGE - 1}): {shown!r}",
        hint="figures on text that was calibrated on mean nothing: take another calibration text, or another held-out text",
    )


def _letters(text: str) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """(lower-case letters and digits as numbers, position of each in `text`)."""
    characters = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
    kinds, which = np.unique(characters, return_inverse=True)
    folded = [ord(chr(kind).lower()[0]) if chr(kind).isalnum() else 0 for kind in kinds]
    numbers = np.array(folded, dtype=np.uint64)[which]
    positions = np.flatnonzero(numbers)
    return numbers[positions], positions


def run_hashes(letters: Hashes) -> Hashes:
    """A 64-bit hash of each run of RUN_CHARACTERS numbers: [len(letters) - RUN_CHARACTERS + 1], or empty.

    Hashes of 1, 2, 4, ... numbers are joined as the binary digits of RUN_CHARACTERS tell, so the work grows with its logarithm.
    """
    count = len(letters) - RUN_CHARACTERS + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    power = letters * np.uint64(_SPREAD)  # hashes of `width` numbers
    joined, joined_width, width = np.zeros(len(letters), dtype=np.uint64), 0, 1
    while True:
        if RUN_CHARACTERS & width:
            joined = _join(joined, power[joined_width:], width)
            joined_width += width
        if 2 * width > RUN_CHARACTERS:
            return joined[:count]
        power = _join(power, power[width:], width)
        width *= 2


def _join(first: Hashes, second: Hashes, width: int) -> Hashes:
    """Hashes of runs followed by runs of `width`; as many as there are seconds."""
    factor = np.uint64(pow(_BASE, width, 1 << 64))
    return np.asarray(first[: len(second)] * factor + second, dtype=np.uint64)


def _is_known(hashes: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Which of `hashes` are among the sorted `known`."""
    if not len(known):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.asarray(known[places] == hashes)


def _runs(hits: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, end) of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hits, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
