"""The two halves of an evaluation, each in its own process: the source model in torch, one container in its engine.

Between them lies a file of float32 log probabilities [chunks, scored, vocab_size] of the source.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgeport.errors import RuntimeFailure
from edgeport.export.evaluate.chunks import ChunkedText
from edgeport.export.evaluate.statistics import TokenScores, join, log_softmax, score, summarize
from edgeport.lazy import load, missing_extra
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.session import Session, SessionOptions


def write_text(text: ChunkedText, path: Path) -> None:
    path.write_text(json.dumps(asdict(text)), encoding="utf-8")


def read_text(path: Path) -> ChunkedText:
    document = json.loads(path.read_text(encoding="utf-8"))
    return ChunkedText(tuple(map(tuple, document["chunks"])), document["n_ctx"], document["text_sha256"])


def source_log_probs(model: str, text: str, out: str, threads: int) -> dict[str, Any]:
    """Run the source model in float32 over every chunk; returns the vocabulary size of its logits."""
    with missing_extra("eval", purpose="running the source model"):
        import torch
        from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    chunked = read_text(Path(text))
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    vocab_size = int(network.config.vocab_size)
    shape = (len(chunked.chunks), chunked.scored_per_chunk, vocab_size)
    target = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=shape)
    with torch.inference_mode():
        for number, chunk in enumerate(chunked.chunks):
            logits = network(torch.tensor([chunk]), use_cache=False).logits[0, chunked.first_scored : -1]
            for start in range(0, len(logits), 64):
                target[number, start : start + 64] = log_softmax(logits[start : start + 64].numpy())
    target.flush()
    return {"vocab_size": vocab_size}


def container_quality(
    format_name: str, entry_point: str, text: str, base: str, threads: int
) -> dict[str, Any]:
    """Feed every chunk to a container's engine, as shipped, and compare with the source's log probabilities."""
    chunked = read_text(Path(text))
    log_probs = np.load(base, mmap_mode="r")
    engine = ENGINES[format_name]
    options = SessionOptions(threads=threads, context_length=chunked.n_ctx)
    session = cast(Session, load(engine.opener, extra=engine.extra)(Path(entry_point), options))
    try:
        if session.vocab_size != log_probs.shape[2]:
            raise RuntimeFailure(
                f"{format_name} has {session.vocab_size} logits, the source {log_probs.shape[2]}: they do not compare"
            )
        scores = [
            _chunk_scores(session, chunked, chunk, log_probs[number])
            for number, chunk in enumerate(chunked.chunks)
        ]
    finally:
        session.close()
    quality = summarize(
        join(scores),
        runtime=engine.name,
        n_ctx=chunked.n_ctx,
        chunks=len(chunked.chunks),
        text_sha256=chunked.text_sha256,
    )
    return asdict(quality)


def _chunk_scores(session: Session, text: ChunkedText, chunk: tuple[int, ...], base: Any) -> TokenScores:
    session.rewind(0)
    first = text.first_scored
    session.feed(chunk[:first])
    logits = session.feed(chunk[first:-1], all_logits=True)
    if not np.isfinite(logits).all():
        raise RuntimeFailure("the engine returned logits that are not finite")
    return score(logits, np.asarray(base), np.array(chunk[first + 1 :], dtype=np.int64))
