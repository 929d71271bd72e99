"""`edgeport sparsify`: a model folder with zeros in its linears, and what they are good for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeport.export.evaluate.statistics import Quality
    from edgeport.export.source import SourceModel
    from edgeport.export.sparsify.plan import SparsifyPlan
    from edgeport.export.sparsify.report import SparsifyReport
    from edgeport.progress import Progress

_JUDGED_CHUNKS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="model folder with config.json and *.safetensors, or a hub id owner/name",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument(
        "--method", default="wanda", metavar="NAME", help="magnitude, wanda or sparsegpt (default: wanda)"
    )
    parser.add_argument(
        "--sparsity",
        type=float,
        metavar="SHARE",
        help="share of zeros in each linear of the decoder (default: 0.5, or the pattern's)",
    )
    parser.add_argument(
        "--pattern",
        default="unstructured",
        metavar="NAME",
        help="unstructured, 2:4 or 4:8 along the input axis (default: unstructured)",
    )
    parser.add_argument(
        "--scope",
        default="row",
        metavar="NAME",
        help="what competes in method magnitude: the weights of a row, or of the tensor (default: row)",
    )
    parser.add_argument(
        "--gradual",
        type=int,
        default=1,
        metavar="N",
        help="reach the sparsity in N rounds of a cubic schedule, scoring anew in each (default: 1)",
    )
    _add_text(parser)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: the cores this process may use)"
    )
    parser.add_argument("--force", action="store_true", help="replace DIR when edgeport wrote it")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        default="auto",
        metavar="WHAT",
        help="text to calibrate on: a UTF-8 file, a folder, a hub data set owner/name[:split[:column]], embedded, self "
        "(the model writes it), or auto: text/calibration.txt of MODEL, else embedded (default: auto)",
    )
    parser.add_argument(
        "--calibration-tokens", type=int, default=32768, metavar="N", help="about this many (default: 32768)"
    )
    parser.add_argument(
        "--heldout",
        type=Path,
        metavar="FILE",
        help="UTF-8 text to measure the loss on (default: text/heldout.txt of MODEL; without one nothing is measured)",
    )


def run(arguments: argparse.Namespace) -> int:
    from edgeport.export.source import open_source
    from edgeport.export.sparsify.plan import plan_sparsify
    from edgeport.progress import Progress

    source = open_source(arguments.model)
    plan = plan_sparsify(source, _settings(arguments))
    if arguments.dry_run:
        print(json.dumps(plan.to_document(), indent=2) if arguments.json else _plan_text(plan))
        return 0
    report, quality = _run(plan, arguments, Progress(quiet=arguments.quiet))
    if arguments.json:
        from edgeport.manifest import to_json

        document = {**report.to_document(), "quality": None if quality is None else to_json(quality)}
        print(json.dumps(document, indent=2))
    else:
        print(_report_text(report, quality, arguments.out))
    return 0


def _settings(arguments: argparse.Namespace) -> Any:
    from edgeport.errors import UsageError
    from edgeport.export.sparsify.settings import parse_sparsify

    document = {
        "method": arguments.method,
        "pattern": arguments.pattern,
        "scope": arguments.scope,
        "rounds": arguments.gradual,
    }
    if arguments.sparsity is not None:
        document["sparsity"] = arguments.sparsity
    problems: list[str] = []
    settings = parse_sparsify(document, problems=problems)
    if problems:
        raise UsageError("; ".join(problems), hint="edgeport sparsify --help lists what is allowed")
    return settings


def _run(
    plan: SparsifyPlan, arguments: argparse.Namespace, progress: Progress
) -> tuple[SparsifyReport, Quality | None]:
    from edgeport.devices.probe import available_threads
    from edgeport.errors import UsageError
    from edgeport.export.gate.heldout import find_heldout
    from edgeport.export.preflight import require_free_output
    from edgeport.export.provenance import PROVENANCE_NAME
    from edgeport.export.sparsify.run import sparsify
    from edgeport.export.staging import Staging

    source = plan.source
    threads = available_threads() if arguments.threads is None else arguments.threads
    if threads < 1:
        raise UsageError(f"--threads {threads}", hint="at least 1")
    require_free_output(arguments.out, force=arguments.force, mark=PROVENANCE_NAME)
    heldout = find_heldout(arguments.heldout, source)
    text = None
    if plan.needs_text:
        from edgeport.export.calibrate.sources import load_calibration

        text = load_calibration(
            arguments.calibration,
            source,
            tokens=arguments.calibration_tokens,
            n_ctx=min(512, source.spec.context_length),
            heldout=None if heldout is None else heldout.path,
            progress=progress,
        )
    with Staging(arguments.out, resume=True) as staging:
        # The pass knows by its own fingerprint whether what is there can be gone on with.
        work = staging.scratch("sparsify", {"source": source.fingerprint(), **plan.settings.to_document()})
        report = sparsify(plan, text, staging.final, work=work, threads=threads, progress=progress)
        quality = None
        if heldout is not None:
            quality = _quality(source, staging.final, heldout.path, threads, progress)
        staging.publish()
    return report, quality


def _quality(source: SourceModel, out: Path, heldout: Path, threads: int, progress: Progress) -> Quality:
    from edgeport.export.evaluate.chunks import chunk_text
    from edgeport.export.evaluate.models import compare_models

    text = chunk_text(
        heldout, source.directory, n_ctx=min(512, source.spec.context_length), most_chunks=_JUDGED_CHUNKS
    )
    found = compare_models(source, {"sparse": out}, text, threads=threads, progress=progress)
    return found["sparse"]


def _plan_text(plan: SparsifyPlan) -> str:
    from edgeport.units import format_bytes, format_count

    settings = plan.settings
    lines = [
        f"{plan.source.name}: {settings.method}, {settings.pattern}, "
        f"{settings.sparsity:.1%} of {format_count(plan.weights)} weights in the decoder's linears become zero"
    ]
    if len(plan.schedule) > 1:
        lines.append("sparsity after each round: " + ", ".join(f"{item:.1%}" for item in plan.schedule))
    if plan.needs_text:
        lines.append(f"memory: {format_bytes(plan.peak_bytes)}")
    return "\n".join(lines)


def _report_text(report: SparsifyReport, quality: Quality | None, out: Path) -> str:
    from edgeport.export.sparsify.report import role_table
    from edgeport.table import format_table

    rows = [(kind, f"{share:.2%}") for kind, share in role_table(report).items()]
    lines = [
        f"{out}: {report.sparsity:.2%} of the decoder's linears are zeros, {report.zeros / report.parameters:.1%} of the model",
        format_table(("linear", "zeros"), rows, right=(1,)),
    ]
    if quality is not None:
        lines.append(
            f"held-out text: perplexity {quality.perplexity:.3f} (source {quality.base_perplexity:.3f}), "
            f"KL divergence {quality.mean_kl_divergence:.4f}, same next token {quality.same_top1:.1%}"
        )
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)
