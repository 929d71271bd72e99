"""Which formats can hold a model with a recipe, and what of the recipe the model's shape changes or leaves without effect."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from edgeport.errors import UnsupportedModel
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.gguf_architecture import NEEDS, architecture
from edgeport.export.formats.table import get_format
from edgeport.export.native_plan import NativePlan
from edgeport.export.recipe import Recipe
from edgeport.export.source import SourceModel
from edgeport.manifest import base_format


def supported_formats(
    source: SourceModel, recipe: Recipe, wanted: Sequence[str], native: Mapping[str, NativePlan]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Formats that can hold the model, and the reasons of the others; raises UnsupportedModel when none can."""
    schemes = sorted({recipe.scheme_for(item) for item in source.spec.tensors()}, key=str)
    reasons = {
        name: native[name].reasons_against
        if name in native
        else tuple(get_format(name).reasons_against(source.spec, schemes, source.directory))
        for name in wanted
    }
    refused = {name: why for name, why in reasons.items() if why}
    if len(refused) == len(reasons):
        told = "; ".join(f"{name}: {', '.join(why)}" for name, why in refused.items())
        raise UnsupportedModel(f"no format can hold this model with recipe {recipe.name}: {told}")
    return tuple(name for name in reasons if name not in refused), refused


def container_notes(spec: DecoderSpec, formats: Sequence[str]) -> tuple[str, ...]:
    """What people should know of a container before it is made: where it needs a younger engine than others do."""
    gguf = [name for name in formats if base_format(name) == "gguf"]
    if not gguf:
        return ()
    found = NEEDS.get(architecture(spec))
    return () if found is None else (f"{', '.join(gguf)}: {found}",)


def snapped_blocks(spec: DecoderSpec, recipe: Recipe) -> tuple[str, ...]:
    """Tensors whose rows the recipe's block does not divide, and what they get instead."""
    notes = []
    for item in spec.tensors():
        got, wanted = recipe.scheme_for(item), recipe.wanted_for(item)
        if got != wanted:
            notes.append(
                f"{item.name}: {got} instead of {wanted}, because {wanted.block} does not divide {item.shape[-1]}"
            )
    return tuple(notes)


def unmatched_overrides(spec: DecoderSpec, recipe: Recipe) -> list[str]:
    """Overrides without effect: a misspelt pattern would silently leave its tensors as they are."""
    names = [item.name for item in spec.tensors() if item.role not in ("norm", "bias")]
    patterns = [pattern for pattern in recipe.overrides if not fnmatch.filter(names, pattern)]
    return [f"override {pattern!r} matches no tensor that could be quantized" for pattern in patterns]
