"""Greedy texts of the source and of each container side by side, as the evaluation kept them in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.report.markup import Markup, element, join

MOST_SAMPLES = 5


def samples(quality: Mapping[str, Any]) -> Markup:
    """One block per prompt, empty when the evaluation generated nothing."""
    by_format = {name: found for name, record in quality.items() if (found := _of(record))}
    if not by_format:
        return Markup()
    first = next(iter(by_format.values()))
    blocks = []
    for number, sample in enumerate(first[:MOST_SAMPLES]):
        texts = [("prompt", sample.get("prompt")), ("source", sample.get("source"))]
        for name, found in by_format.items():
            if number < len(found):
                texts.append((name, _text(found[number])))
        blocks.append(
            element(
                "details",
                element("summary", f"Sample {number + 1}"),
                *(part for title, text in texts for part in (element("p", title), element("pre", str(text)))),
            )
        )
    return join(blocks, "\n")


def _of(record: object) -> list[Mapping[str, Any]]:
    found = dig(record, "generation.samples")
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _text(sample: Mapping[str, Any]) -> str:
    same = sample.get("first_divergence") is None and sample.get("container") == sample.get("source")
    return "(the same)" if same else str(sample.get("container"))
