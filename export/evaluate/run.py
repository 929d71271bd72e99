"""Evaluate an artifact: the source once, then every container in its own runtime, on the same tokens."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.devices.probe import available_threads
from edgeport.errors import UsageError
from edgeport.export.evaluate.chunks import ChunkedText, chunk_text
from edgeport.export.evaluate.classification import Task, encode_item, read_task, summarize_choices
from edgeport.export.evaluate.generation import GenerationReport, Sample, compare_generations
from edgeport.export.evaluate.plan import Answers, EvalPlan, write_plan
from edgeport.export.evaluate.prompts import Prompts, prompts_from_file, prompts_from_text
from edgeport.export.evaluate.statistics import Quality
from edgeport.export.source import SourceModel, open_source
from edgeport.lazy import missing_extra
from edgeport.manifest import Manifest, from_json, read_manifest, to_json, write_manifest
from edgeport.progress import Progress
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.model_config import read_stop_ids
from edgeport.units import format_bytes

DEFAULT_N_CTX = 512
DEFAULT_PROMPTS = 16
DEFAULT_NEW_TOKENS = 96
DEFAULT_SAMPLES = 3
LARGEST_BASE_BYTES = 2 << 30
"""Log probabilities of the source kept on disk while the containers are evaluated."""


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """source: model folder, None for where the manifest says it was. n_ctx: None for 512, or the model's
    context when that is shorter. most_chunks: 0 for the whole text.

    prompts: how many beginnings of chunks are continued by `new_tokens` at most, 0 for no generation; prompts_file, when
    given and prompts is not 0, is used whole in their place. new_tokens: None for 96, or half the model's context when that
    is shorter. samples: how many are kept side by side as text.
    task: a file for `classification.read_task`, None for no classification.
    """

    artifact: Path
    text: Path
    source: str | None = None
    formats: tuple[str, ...] = ()
    n_ctx: int | None = None
    most_chunks: int = 40
    threads: int | None = None
    prompts: int = DEFAULT_PROMPTS
    prompts_file: Path | None = None
    new_tokens: int | None = None
    samples: int = DEFAULT_SAMPLES
    task: Path | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """A request made concrete: what is asked, and what is needed to say what came out."""

    plan: EvalPlan
    prompts_sha256: str
    task: Task | None
    tokenizer: Any
    samples: int


def evaluate(request: EvalRequest, *, progress: Progress) -> dict[str, Quality]:
    """Quality by format, also stored in the manifest.

    Raises UsageError when the source is not the one that was exported, the text does not fill two chunks, or a prompt or
    an item of the task does not fit the model's context.
    """
    manifest = read_manifest(request.artifact)
    source = _open_same_source(request, manifest)
    threads = request.threads or available_threads()
    work = _work(request, source)
    entries = [
        manifest.container(name) for name in request.formats or [item.format for item in manifest.containers]
    ]
    results: dict[str, Quality] = {}
    with (
        tempfile.TemporaryDirectory(prefix="edgeport-eval-") as folder,
        progress.stage("evaluate", total=len(entries) + 1) as stage,
    ):
        plan, base = Path(folder) / "plan.json", Path(folder) / "base.npy"
        write_plan(work.plan, plan)
        common = {"plan": str(plan), "threads": threads}
        arguments = {**common, "model": str(source.directory), "out": str(base)}
        document = run_isolated("edgeport.export.evaluate.child:source_pass", arguments, timeout_s=None)
        expected = from_json(Answers, document)
        stage.advance(1)
        for entry in entries:
            arguments = {
                **common,
                "format_name": entry.format,
                "entry_point": str(request.artifact / entry.entry_point),
                "base": str(base),
            }
            document = run_isolated(
                "edgeport.export.evaluate.child:container_pass", arguments, timeout_s=None
            )
            quality, got = from_json(Quality, document["quality"]), from_json(Answers, document["answers"])
            results[entry.format] = _with_answers(quality, work, expected, got)
            stage.advance(1)
    # Read again: a bench may have written its speeds meanwhile.
    current = read_manifest(request.artifact)
    stored = {**current.quality, **{name: to_json(value) for name, value in results.items()}}
    write_manifest(replace(current, quality=stored), request.artifact)
    return results


def _work(request: EvalRequest, source: SourceModel) -> _Work:
    text = _chunks(request, source)
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(source.directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    context = source.spec.context_length
    new_tokens = min(DEFAULT_NEW_TOKENS, context // 2) if request.new_tokens is None else request.new_tokens
    prompts = _prompts(request, text, tokenizer, (context, new_tokens))
    task = read_task(request.task) if request.task else None
    items = task.items if task else ()
    plan = EvalPlan(
        text=text,
        prompts=prompts.tokens,
        new_tokens=new_tokens if prompts.tokens else 0,
        stop_ids=read_stop_ids(source.directory),
        items=tuple(encode_item(item, tokenizer, most_tokens=context) for item in items),
    )
    return _Work(plan, prompts.sha256, task, tokenizer, request.samples)


def _prompts(request: EvalRequest, text: ChunkedText, tokenizer: Any, room: tuple[int, int]) -> Prompts:
    """room: the model's context and the new tokens that must fit into it with a prompt."""
    if request.prompts < 1:
        return Prompts(())
    context, new_tokens = room
    most_tokens = context - new_tokens
    if new_tokens < 1 or most_tokens < 1:
        raise UsageError(
            f"{new_tokens} new tokens are outside 1 .. {context - 1}, the model's context is {context}",
            hint="give another --new-tokens",
        )
    if request.prompts_file is not None:
        return prompts_from_file(request.prompts_file, tokenizer, most_tokens=most_tokens)
    prompts = prompts_from_text(text, request.prompts)
    return Prompts(tuple(tokens[:most_tokens] for tokens in prompts.tokens))


def _with_answers(quality: Quality, work: _Work, source: Answers, container: Answers) -> Quality:
    generation = classification = None
    if work.plan.prompts:
        generation = compare_generations(
            source.generations,
            container.generations,
            new_tokens=work.plan.new_tokens,
            prompts_sha256=work.prompts_sha256,
        )
        generation = replace(generation, samples=_samples(work, source, container, generation))
    if work.task is not None:
        classification = summarize_choices(work.task, source.choices, container.choices)
    return replace(quality, generation=generation, classification=classification)


def _samples(
    work: _Work, source: Answers, container: Answers, report: GenerationReport
) -> tuple[Sample, ...]:
    """The first prompts, not the best: nobody chose them."""
    rows = zip(
        work.plan.prompts, source.generations, container.generations, report.first_divergence, strict=True
    )
    return tuple(
        Sample(
            prompt=work.tokenizer.decode(list(prompt)),
            source=work.tokenizer.decode(list(expected)),
            container=work.tokenizer.decode(list(got)),
            first_divergence=parted,
        )
        for prompt, expected, got, parted in list(rows)[: work.samples]
    )


def _open_same_source(request: EvalRequest, manifest: Manifest) -> SourceModel:
    location = request.source or manifest.source.location
    try:
        source = open_source(location)
    except UsageError as error:
        raise UsageError(
            f"the source model is needed to compare with: {error.message}",
            hint="say where it is with --source",
        ) from error
    if source.fingerprint() != manifest.source.fingerprint:
        raise UsageError(
            f"{location} is not the model this artifact was exported from: its fingerprint is {source.fingerprint()[:16]}, "
            f"the manifest says {manifest.source.fingerprint[:16]}",
            hint="give the right folder with --source, or export again",
        )
    return source


def _chunks(request: EvalRequest, source: SourceModel) -> ChunkedText:
    n_ctx = request.n_ctx or min(DEFAULT_N_CTX, source.spec.context_length)
    if not 8 <= n_ctx <= source.spec.context_length:
        raise UsageError(f"--n-ctx {n_ctx} is outside 8 .. {source.spec.context_length}, the model's context")
    chunk_bytes = (n_ctx - 1 - n_ctx // 2) * source.spec.vocab_size * 4
    affordable = max(LARGEST_BASE_BYTES // chunk_bytes, 1)
    if chunk_bytes > LARGEST_BASE_BYTES:
        raise UsageError(
            f"one chunk of {n_ctx} tokens needs {format_bytes(chunk_bytes)} of disk",
            hint="use a smaller --n-ctx",
        )
    most_chunks = min(request.most_chunks or affordable, affordable)
    return chunk_text(request.text, source.directory, n_ctx=n_ctx, most_chunks=most_chunks)
