"""provenance.json: which stage made a model folder, from what, and what it measured."""

from __future__ import annotations

import json
from typing import Any

from edgeport.export.source import SourceModel

PROVENANCE_NAME = "provenance.json"


def earlier_provenance(source: SourceModel) -> Any:
    """What an earlier stage wrote beside the source; None for a model of someone else's."""
    path = source.directory / PROVENANCE_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
