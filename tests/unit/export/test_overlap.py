"""The overlap check: it passes the reference model's two texts and files that share a licence, and refuses what is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.export.calibrate.overlap import RUN_CHARACTERS, find_overlap, refuse_overlap, run_hashes
from edgeport.export.calibrate.sources import embedded_text

TEXTS = Path(__file__).resolve().parents[3] / "models" / "reference" / "text"
CALIBRATION = (TEXTS / "calibration.txt").read_text(encoding="utf-8")
HELDOUT = (TEXTS / "heldout.txt").read_text(encoding="utf-8")


def refuse(text: str, heldout: str = HELDOUT) -> None:
    refuse_overlap([text], heldout, origin="a text", heldout_name="heldout.txt")


def passage(letters: int) -> str:
    """So many letters and digits of the held-out text, from its middle, no licence among them."""
    start = HELDOUT.index("def _recv_bytes")
    stop = start
    while letters:
        letters -= HELDOUT[stop].isalnum()
        stop += 1
    return HELDOUT[start:stop]


def test_the_reference_texts_and_the_embedded_text_pass() -> None:
    overlap = find_overlap([CALIBRATION], HELDOUT)
    assert not overlap.is_too_much
    assert overlap.share < 0.01
    refuse(CALIBRATION)
    refuse(embedded_text())


def test_a_licence_in_both_is_no_overlap_but_as_much_of_anything_else_is() -> None:
    notice = (TEXTS / "LICENSE-PSF.txt").read_text(encoding="utf-8")
    start = notice.index("LICENSE AGREEMENT")
    notice = notice[start : start + 1800]
    refuse(CALIBRATION + notice, HELDOUT + notice)
    with pytest.raises(UsageError):
        refuse(CALIBRATION + HELDOUT[90_000:91_800])


def test_a_planted_passage_is_refused_and_quoted() -> None:
    planted = CALIBRATION[:50_000] + passage(330) + CALIBRATION[50_000:]
    with pytest.raises(UsageError, match=r"33\d in one passage.*def _recv_bytes") as refused:
        refuse(planted)
    assert "heldout.txt" in refused.value.message and refused.value.hint
    refuse(CALIBRATION[:50_000] + passage(250) + CALIBRATION[50_000:])


def test_other_line_ends_indentation_and_case_do_not_hide_a_passage() -> None:
    disguised = "\n".join("  # " + word.upper() for word in passage(400).split())
    with pytest.raises(UsageError):
        refuse(CALIBRATION + disguised)


def test_many_short_passages_are_refused_by_their_share() -> None:
    words = HELDOUT.split()
    pieces = [" ".join(words[start : start + 15]) for start in range(0, 3000, 60)]
    scattered = " XX ".join(pieces)
    overlap = find_overlap([scattered], HELDOUT)
    assert max(item.characters for item in overlap.passages) < 300
    with pytest.raises(UsageError, match="%"):
        refuse(scattered)


def test_a_text_without_spaces_between_words() -> None:
    held = "".join(chr(0x4E00 + number) for number in np.random.default_rng(0).integers(0, 3000, 2000))
    other = "".join(chr(0x4E00 + number) for number in np.random.default_rng(1).integers(0, 3000, 2000))
    refuse(other, held)
    with pytest.raises(UsageError):
        refuse(other + held[500:900], held)


def test_passages_do_not_cross_windows() -> None:
    half = passage(320)
    refuse_overlap(
        [half[: len(half) // 2], CALIBRATION, half[len(half) // 2 :]], HELDOUT, origin="a", heldout_name="b"
    )


def test_nothing_and_less_than_a_run() -> None:
    for text in ("", "short", "..."):
        assert find_overlap([text], HELDOUT).share == 0
        assert find_overlap([CALIBRATION], text).share == 0


def test_hashes_agree_with_a_polynomial_evaluated_in_python() -> None:
    letters = np.random.default_rng(5).integers(1, 1 << 20, 120).astype(np.uint64)
    hashes = run_hashes(letters)
    assert len(hashes) == 120 - RUN_CHARACTERS + 1
    for start in (0, 17, len(hashes) - 1):
        expected = 0
        for letter in letters[start : start + RUN_CHARACTERS].tolist():
            expected = (expected * 0xD6E8FEB86659FD93 + letter * 0x9E3779B97F4A7C15) % 2**64
        assert int(hashes[start]) == expected
