"""One container against the source's log probabilities, in its own engine; runs in a process of its own.

The conventions are those of `edgeport eval` (edgeport/export/evaluate/chunks.py, statistics.py): the second half of every
chunk is scored, everything in float64 from the engine's float32 logits. Peers' files go through the same sessions as ours,
with the same settings of the engine, so that only the weights and the graph differ; the builder's graph, whose cache has no
fixed width, through a loop of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import RuntimeFailure
from edgeport.export.evaluate.child import read_text
from edgeport.export.evaluate.engines import opener_for
from edgeport.export.evaluate.statistics import join, score, summarize
from edgeport.lazy import load
from edgeport.runtimes.session import Session, SessionOptions

Logits = npt.NDArray[np.float32]
Rows = Callable[[Sequence[int], int], Logits]
"""(chunk, first) -> logits [len(chunk) - 1 - first, vocab_size] that predict chunk[first + 1:]."""


def measure(
    engine: str, path: str, text: str, base: str, threads: int, exact: bool = False
) -> dict[str, Any]:
    """Quality of the container at `path` as plain values; `exact` asks for the engine's most exact arithmetic."""
    chunked = read_text(Path(text))
    options = SessionOptions(threads=threads, context_length=chunked.n_ctx, exact=exact)
    rows = (
        _builder_rows(Path(path), threads) if engine == "onnx-builder" else _rows(engine, Path(path), options)
    )
    log_probs = np.load(base, mmap_mode="r")  # [chunks, scored, vocab_size]
    first, parts = chunked.first_scored, []
    for chunk, expected in zip(chunked.chunks, log_probs, strict=True):
        logits = rows(chunk, first)
        if logits.shape != expected.shape:
            raise RuntimeFailure(f"logits of shape {logits.shape}, the source's are {expected.shape}")
        if not np.isfinite(logits).all():
            raise RuntimeFailure("the engine returned logits that are not finite")
        parts.append(score(logits, np.asarray(expected), np.array(chunk[first + 1 :], np.int64)))
    quality = summarize(
        join(parts),
        runtime=engine,
        n_ctx=chunked.n_ctx,
        chunks=len(chunked.chunks),
        text_sha256=chunked.text_sha256,
    )
    return asdict(quality)


def _rows(engine: str, path: Path, options: SessionOptions) -> Rows:
    session: Session = load(opener_for(engine))(path, options)

    def rows(chunk: Sequence[int], first: int) -> Logits:
        session.rewind(0)
        session.feed(chunk[:first])
        return session.feed(chunk[first:-1], all_logits=True)

    return rows


def _builder_rows(path: Path, threads: int) -> Rows:
    """onnxruntime-genai's graph in plain ONNX Runtime: the whole chunk at once, after a cache of no tokens."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    decoder = json.loads((path.parent / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
    wanted = {item.name: item.type for item in session.get_inputs()}
    empty = {
        name: np.empty(shape, np.float16 if kind == "tensor(float16)" else np.float32)
        for name, kind in wanted.items()
        if name.startswith("past_key_values.")
    }

    def rows(chunk: Sequence[int], first: int) -> Logits:
        tokens = np.array([chunk[:-1]], np.int64)
        values = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "position_ids": np.arange(tokens.shape[1], dtype=np.int64)[None],
        }
        given = {name: value for name, value in values.items() if name in wanted}
        logits: Logits = session.run(["logits"], {**given, **empty})[0][0, first:]
        return logits.astype(np.float32)

    return rows
