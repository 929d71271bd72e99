"""The two halves of an evaluation, each in its own process: the source model in torch, one container in its engine.

Between them lies a file of float32 log probabilities [chunks, scored, vocab_size] of the source. `source_log_probs` and
`container_quality` are the text alone; `source_pass` and `container_pass` also answer a plan's prompts and items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgeport.errors import RuntimeFailure
from edgeport.export.evaluate.chunks import ChunkedText
from edgeport.export.evaluate.engines import engine_for
from edgeport.export.evaluate.plan import answer, read_plan
from edgeport.export.evaluate.statistics import TokenScores, join, log_softmax, score, summarize
from edgeport.export.evaluate.torch_session import TorchSession, load_network
from edgeport.lazy import load
from edgeport.manifest import to_json
from edgeport.runtimes.session import Session, SessionOptions


def write_text(text: ChunkedText, path: Path) -> None:
    path.write_text(json.dumps(asdict(text)), encoding="utf-8")


def read_text(path: Path) -> ChunkedText:
    document = json.loads(path.read_text(encoding="utf-8"))
    return ChunkedText(tuple(map(tuple, document["chunks"])), document["n_ctx"], document["text_sha256"])


def source_log_probs(model: str, text: str, out: str, threads: int) -> dict[str, Any]:
    """Run the source model in float32 over every chunk; returns the vocabulary size of its logits."""
    network = _source(model, threads)
    _write_log_probs(network, read_text(Path(text)), out)
    return {"vocab_size": int(network.config.vocab_size)}


def source_pass(model: str, plan: str, out: str, threads: int) -> Any:
    """The chunks as `source_log_probs`, then the source's own Answers to the plan, as JSON."""
    network, wanted = _source(model, threads), read_plan(Path(plan))
    _write_log_probs(network, wanted.text, out)
    return to_json(answer(TorchSession(network, wanted.context_length), wanted))


def container_quality(
    format_name: str, entry_point: str, text: str, base: str, threads: int, *, exact: bool = False
) -> dict[str, Any]:
    """Feed every chunk to a container's engine, as shipped (exact: in float32), and compare with the source's log
    probabilities."""
    chunked = read_text(Path(text))
    options = SessionOptions(threads=threads, context_length=chunked.n_ctx, exact=exact)
    with _opened(format_name, Path(entry_point), options) as session:
        return _quality(session, format_name, chunked, base)


def container_pass(format_name: str, entry_point: str, plan: str, base: str, threads: int) -> dict[str, Any]:
    """{"quality": as container_quality, "answers": the container's Answers to the plan}."""
    wanted = read_plan(Path(plan))
    options = SessionOptions(threads=threads, context_length=wanted.context_length)
    with _opened(format_name, Path(entry_point), options) as session:
        quality = _quality(session, format_name, wanted.text, base)
        return {"quality": quality, "answers": to_json(answer(session, wanted))}


def _source(model: str, threads: int) -> Any:
    return load_network(Path(model), SessionOptions(threads=threads, exact=True))


def _write_log_probs(network: Any, chunked: ChunkedText, out: str) -> None:
    import torch

    shape = (len(chunked.chunks), chunked.scored_per_chunk, int(network.config.vocab_size))
    target = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=shape)
    with torch.inference_mode():
        for number, chunk in enumerate(chunked.chunks):
            logits = network(torch.tensor([chunk]), use_cache=False).logits[0, chunked.first_scored : -1]
            for start in range(0, len(logits), 64):
                target[number, start : start + 64] = log_softmax(logits[start : start + 64].numpy())
    target.flush()


@contextmanager
def _opened(format_name: str, entry_point: Path, options: SessionOptions) -> Iterator[Session]:
    engine = engine_for(format_name)
    session = cast(Session, load(engine.opener, extra=engine.extra)(entry_point, options))
    try:
        yield session
    finally:
        session.close()


def _quality(session: Session, format_name: str, chunked: ChunkedText, base: str) -> dict[str, Any]:
    log_probs = np.load(base, mmap_mode="r")
    if session.vocab_size != log_probs.shape[2]:
        raise RuntimeFailure(
            f"{format_name} has {session.vocab_size} logits, the source {log_probs.shape[2]}: they do not compare"
        )
    scores = [
        _chunk_scores(session, chunked, chunk, log_probs[number])
        for number, chunk in enumerate(chunked.chunks)
    ]
    quality = summarize(
        join(scores),
        runtime=engine_for(format_name).name,
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
