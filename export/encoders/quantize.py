"""Quantize an encoder into a checkpoint (export/checkpoint.py): the same codes, scales and files as a decoder's, rounded to nearest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeport.export.checkpoint import SOURCE_FOLDER
from edgeport.export.encoders.sentence_transformers import copy_side_files
from edgeport.export.encoders.source import EncoderSource
from edgeport.export.quantize.run import write_checkpoint
from edgeport.export.quantize.tensor import QuantizedTensor, quantize_tensor
from edgeport.export.recipe import Recipe
from edgeport.progress import Progress


def quantize_encoder(source: EncoderSource, recipe: Recipe, directory: Path, *, progress: Progress) -> None:
    """Write a checkpoint into the existing empty `directory`, tensor by tensor; checkpoint.json comes last.

    Raises UnsupportedModel for a weight that is not finite or that the scheme cannot hold.
    """
    copy_side_files(source.directory, directory / SOURCE_FOLDER)
    write_checkpoint(source, recipe, directory, _results(source, recipe, progress))


def _results(source: EncoderSource, recipe: Recipe, progress: Progress) -> Iterator[QuantizedTensor]:
    tensors = list(source.spec.tensors())
    with progress.stage("quantize", total=len(tensors)) as stage:
        for item in tensors:
            yield quantize_tensor(source.tensor(item.name), recipe.scheme_for(item), name=item.name)
            source.release(item.name)
            stage.advance(1)
