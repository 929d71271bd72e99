"""Compare whole models in transformers: what pruning and recovery did to the source, before anything is quantized."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgeport.export.evaluate.child import write_text
from edgeport.export.evaluate.chunks import ChunkedText
from edgeport.export.evaluate.statistics import Quality
from edgeport.export.source import SourceModel
from edgeport.manifest import from_json
from edgeport.progress import Progress
from edgeport.runtimes.isolation import run_isolated


def compare_models(
    source: SourceModel,
    folders: Mapping[str, Path],
    text: ChunkedText,
    *,
    threads: int,
    progress: Progress,
) -> dict[str, Quality]:
    """Perplexity, KL divergence and top-1 agreement of model folders with `source`, all in float32, by name.

    Raises RuntimeFailure for a folder that transformers cannot open or whose vocabulary is another one.
    """
    found: dict[str, Quality] = {}
    with (
        tempfile.TemporaryDirectory(prefix="edgeport-models-") as work,
        progress.stage("compare models", total=len(folders) + 1) as stage,
    ):
        chunks, base = Path(work) / "text.json", Path(work) / "base.npy"
        write_text(text, chunks)
        common = {"text": str(chunks), "threads": threads}
        arguments = {**common, "model": str(source.directory), "out": str(base)}
        run_isolated("edgeport.export.evaluate.child:source_log_probs", arguments, timeout_s=None)
        stage.advance(1)
        for name, folder in folders.items():
            arguments = {
                **common,
                "format_name": "transformers",
                "entry_point": str(folder),
                "base": str(base),
                "exact": True,
            }
            document = run_isolated(
                "edgeport.export.evaluate.child:container_quality", arguments, timeout_s=None
            )
            found[name] = from_json(Quality, document)
            stage.advance(1)
    return found
