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
    source: SourceModel, folders: Mapping[str, Path], text: ChunkedText, *, threads: int, progress: Progress
) -> dict[str, Quality]:
    """Perplexity, KL divergence and top-1 agreement of model folders with `source`, all in float32, by name.

    Raises RuntimeFailure for a folder that transformers cannot open or whose vocabulary is another one.
    """
    found: dict[str, Quality] = {}
    with (
        tempfile.TemporaryDirectory(prefix="edgeport-models-") as work,
        progress.stage("compare models", total=len(folders) + 1) as stage,
    ):
        yardstick = Yardstick(source, text, Path(work), threads)
        stage.advance(1)
        for name, folder in folders.items():
            found[name] = yardstick.quality("transformers", folder, exact=True)
            stage.advance(1)
    return found


class Yardstick:
    """The source's log probabilities on a text, in folder `work`, and how far others are from them."""

    def __init__(self, source: SourceModel, text: ChunkedText, work: Path, threads: int) -> None:
        self._base, chunks = work / "base.npy", work / "text.json"
        write_text(text, chunks)
        self._common = {"text": str(chunks), "threads": threads}
        arguments = {**self._common, "model": str(source.directory), "out": str(self._base)}
        run_isolated("edgeport.export.evaluate.child:source_log_probs", arguments, timeout_s=None)

    def quality(self, format_name: str, entry_point: Path, *, exact: bool = False) -> Quality:
        """Of a container in its engine as shipped; exact: in float32."""
        arguments = {
            **self._common,
            "format_name": format_name,
            "entry_point": str(entry_point),
            "base": str(self._base),
            "exact": exact,
        }
        document = run_isolated("edgeport.export.evaluate.child:container_quality", arguments, timeout_s=None)
        found: Quality = from_json(Quality, document)
        return found
