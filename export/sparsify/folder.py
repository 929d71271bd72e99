"""A model folder that appears whole, and what made it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeport.export.provenance import PROVENANCE_NAME, earlier_provenance
from edgeport.export.source import SourceModel


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that gets its name when the block ends well; an older `out` is replaced."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)


def write_provenance(
    source: SourceModel, folder: Path, stage: str, settings: Mapping[str, Any], report: Mapping[str, Any]
) -> None:
    """What made this folder of what; the source's own provenance is kept under `source`."""
    document: dict[str, Any] = {
        "stage": stage,
        "settings": dict(settings),
        "source_name": source.name,
        "source_fingerprint": source.fingerprint(),
        "report": dict(report),
    }
    earlier = earlier_provenance(source)
    if earlier is not None:
        document["source"] = earlier
    text = json.dumps(document, indent=2) + "\n"
    (folder / PROVENANCE_NAME).write_text(text, encoding="utf-8")
