"""How the model's authors would sample, as llama.cpp reads it from the file: keys `general.sampling.*` of llama.h.

A GGUF file is often copied alone, and then nothing else says it. A model that does not sample gets no keys: there is none for
greedy text, and llama.cpp goes by its user's settings.
"""

from __future__ import annotations

import json
from pathlib import Path

from gguf import GGUFWriter

_WHOLE_CONTEXT = -1


def add_sampling(writer: GGUFWriter, source: Path) -> None:
    """From generation_config.json in `source`, with transformers' own values (temperature 1, top_k 50) for what it leaves open."""
    path = source / "generation_config.json"
    wanted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not wanted.get("do_sample"):
        return
    given = {name: value for name, value in wanted.items() if value is not None}
    writer.add_sampling_temp(float(given.get("temperature", 1.0)))
    writer.add_sampling_top_k(max(int(given.get("top_k", 50)), 0))
    if "top_p" in given:
        writer.add_sampling_top_p(float(given["top_p"]))
    if "min_p" in given:
        writer.add_sampling_min_p(float(given["min_p"]))
    if given.get("repetition_penalty", 1.0) != 1.0:
        writer.add_sampling_penalty_repeat(float(given["repetition_penalty"]))
        writer.add_sampling_penalty_last_n(_WHOLE_CONTEXT)  # transformers counts all of prompt and text
