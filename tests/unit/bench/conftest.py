"""A real artifact with all containers of one tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.manifest import ContainerEntry, Manifest, file_entry, write_manifest

WEIGHTS_ID = "3fa9c1" + "0b" * 29


@pytest.fixture(scope="session")
def packed_dir(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Path:
    """An artifact folder as the exporter writes it, with all four containers; not verified. Read-only: copy it to change it."""
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import FORMATS, get_format
    from edgeport.export.quantize.run import quantize
    from edgeport.export.recipe import load_recipe
    from edgeport.export.request import model_facts
    from edgeport.export.source import open_source
    from edgeport.progress import NO_PROGRESS

    root = tmp_path_factory.mktemp("artifact")
    source = open_source(str(tiny_llama_dir))
    recipe = replace(load_recipe("int4"), solver="rtn")
    (root / "checkpoint").mkdir()
    quantize(source, recipe, root / "checkpoint", threads=1, progress=NO_PROGRESS)
    checkpoint = Checkpoint(root / "checkpoint", source.spec)
    containers = []
    for name in FORMATS:
        (root / "art" / name).mkdir(parents=True)
        entry_point = get_format(name).write(
            checkpoint, root / "art" / name, WriteOptions("tiny", 256, NO_PROGRESS)
        )
        files = tuple(file_entry(path, root / "art") for path in sorted((root / "art" / name).iterdir()))
        size_bytes = sum(item.size_bytes for item in files)
        path = entry_point.relative_to(root / "art").as_posix()
        containers.append(ContainerEntry(name, path, files, size_bytes, WEIGHTS_ID))
    manifest = Manifest(
        name="tiny",
        created="2026-11-20T14:00:00Z",
        source=source.facts(),
        recipe=recipe.to_document(),
        device="edge",
        model=model_facts(source.spec, recipe),
        weights_id=WEIGHTS_ID,
        containers=tuple(containers),
    )
    write_manifest(manifest, root / "art")
    return root / "art"
