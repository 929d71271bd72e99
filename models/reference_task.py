"""A classification task the reference model can do: which word begins the next line of a Python module?

Cut from the held-out text alone, in which nothing was trained or calibrated. Each item is some lines of code up to and
including the indentation of a line that begins with one of the WORDS; the answer is that word. Every word is the answer
equally often, so a blind guess is right once in len(WORDS). Writes JSON lines as `edgeport eval --task` reads them:

    python models/reference_task.py
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

# of similar length: the score is per byte, which favours a long word whose first letters already say what it is
WORDS = ("return", "raise", "self", "else", "except", "def")
ITEMS_PER_WORD = 25
PROMPT_CHARACTERS = 480
TEXT = Path(__file__).parent / "reference" / "text"


def build_items(text: str) -> list[dict[str, object]]:
    """Items in the order of the text; of each word's places, ITEMS_PER_WORD spread evenly over the text."""
    lines = text.splitlines(keepends=True)
    starts, total = [], 0
    for line in lines:
        starts.append(total)
        total += len(line)
    chosen = []
    for answer, word in enumerate(WORDS):
        places = [
            start + len(line) - len(line.lstrip())
            for start, line in zip(starts, lines, strict=True)
            if re.match(rf" +{word}\b", line) and start > PROMPT_CHARACTERS
        ]
        if len(places) < ITEMS_PER_WORD:
            raise ValueError(f"{word!r} begins {len(places)} lines, {ITEMS_PER_WORD} are needed")
        spread = [places[number * len(places) // ITEMS_PER_WORD] for number in range(ITEMS_PER_WORD)]
        chosen += [(place, answer) for place in spread]
    return [
        {"prompt": _whole_lines(text, place), "choices": list(WORDS), "answer": answer}
        for place, answer in sorted(chosen)
    ]


def _whole_lines(text: str, end: int) -> str:
    """Up to PROMPT_CHARACTERS before `end`, from the beginning of a line."""
    start = text.index("\n", end - PROMPT_CHARACTERS) + 1
    return text[start:end]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, default=TEXT / "heldout.txt", metavar="FILE")
    parser.add_argument("-o", "--out", type=Path, default=TEXT / "task.jsonl", metavar="FILE")
    options = parser.parse_args(arguments)
    items = build_items(options.text.read_text(encoding="utf-8"))
    content = "".join(json.dumps(item) + "\n" for item in items)
    options.out.write_text(content, encoding="utf-8")
    print(f"{len(items)} items in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
