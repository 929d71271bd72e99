"""The source in 16 bits in the same containers, for comparing speed and memory with what an export made of it."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from edgeport.export.build import Workshop, checkpoint_key
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.containers import ENTRY_POINTS
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import load_recipe
from edgeport.export.request import ExportPlan
from edgeport.manifest import base_format
from edgeport.progress import NO_PROGRESS

TIMED = ("gguf", "onnx", "openvino")
"""Formats whose engines make a claim to speed."""


def build_sixteen_bit(plan: ExportPlan, shop: Workshop) -> dict[str, Path]:
    """Entry point by format of the source in float16 or bfloat16, whichever it came in, for what can be timed.

    Kept in the staging folder over the rungs of the ladder; never published.
    """
    recipe = load_recipe("f16" if plan.original.facts().dtype == "f16" else "bf16")
    sixteen = replace(plan, recipe=recipe, source=plan.original)
    key = checkpoint_key(sixteen, None)
    folder = shop.staging.directory / "sixteen-checkpoint"
    with shop.progress.stage("16-bit containers to compare with"):
        shop.staging.stage(
            folder,
            key,
            lambda target: quantize(
                plan.original, recipe, target, threads=plan.threads, progress=NO_PROGRESS
            ),
        )
        checkpoint = Checkpoint(folder, plan.original.spec)
        options = WriteOptions(plan.original.name, plan.context_length, NO_PROGRESS)
        found = {}
        for name in dict.fromkeys(base_format(name) for name in plan.formats):
            if name not in TIMED:
                continue
            target = shop.staging.directory / f"sixteen-{name}"
            write = functools.partial(_write, name, checkpoint, options)
            shop.staging.stage(target, {**key, "format": name, "name": plan.original.name}, write)
            found[name] = next(target.glob(ENTRY_POINTS[name]))
    return found


def _write(name: str, checkpoint: Checkpoint, options: WriteOptions, folder: Path) -> None:
    get_format(name).write(checkpoint, folder, options)
