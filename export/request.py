"""What is asked of an export, and the plan that answers before any work starts."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeport.devices.catalog import load_profile
from edgeport.devices.conversion import ConversionEstimate, conversion_memory
from edgeport.devices.match import Fit, require_fit
from edgeport.devices.probe import available_threads, read_host
from edgeport.devices.profile import DeviceProfile
from edgeport.errors import DoesNotFit, UnsupportedModel, UsageError
from edgeport.export.families.decoder import EMBEDDING, DecoderSpec, TensorSpec
from edgeport.export.formats.table import FORMATS, get_format
from edgeport.export.recipe import Recipe, load_recipe
from edgeport.export.source import SourceModel, open_source
from edgeport.manifest import MANIFEST_NAME, ModelFacts
from edgeport.scheme import TensorScheme
from edgeport.units import format_bytes


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """formats, recipe, context_length and threads: None means what the device profile or this machine suggests."""

    model: str
    device: str
    out: Path
    formats: tuple[str, ...] | None = None
    recipe: str | None = None
    context_length: int | None = None
    threads: int | None = None
    force: bool = False
    resume: bool = True
    verify: bool = True


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """Everything decided: nothing below this point asks what to do. Sizes are bytes; refused maps formats to reasons."""

    request: ExportRequest
    source: SourceModel
    recipe: Recipe
    profile: DeviceProfile
    facts: ModelFacts
    formats: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]
    sizes_bytes: Mapping[str, int]
    fits: tuple[Fit, ...]
    context_length: int
    threads: int
    disk_bytes: int
    ram_bytes: int
    notes: tuple[str, ...]


def make_plan(request: ExportRequest) -> ExportPlan:
    """Decide and check. Raises UsageError, UnsupportedModel or DoesNotFit, with numbers, before anything is written."""
    profile = load_profile(request.device)
    recipe = load_recipe(request.recipe or profile.recipe)
    wanted = request.formats or profile.formats
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise UsageError(f"unknown format {unknown[0]!r}", hint=f"formats are {', '.join(FORMATS)}")
    _require_free_output(request.out, force=request.force)
    if (request.threads or 1) < 1 or (request.context_length or 1) < 1:
        raise UsageError(
            f"threads {request.threads}, context {request.context_length}", hint="both must be at least 1"
        )
    source = open_source(request.model)
    formats, refused = _supported(source, recipe, wanted)
    facts = model_facts(source.spec, recipe)
    sizes = {name: packed_bytes(source.spec, recipe, name) for name in formats}
    context_length = request.context_length or min(profile.context_length, facts.context_length)
    # Packed safetensors is made whatever was asked for: the golden answers are computed from it.
    packed = sizes | {"safetensors": packed_bytes(source.spec, recipe, "safetensors")}
    disk_bytes = checkpoint_bytes(source.spec, recipe) + sum(packed.values())
    _require_disk(request.out, disk_bytes)
    threads = request.threads or available_threads()
    conversion = _require_memory(facts, source.spec, recipe, threads)
    return ExportPlan(
        request=request,
        source=source,
        recipe=recipe,
        profile=profile,
        facts=facts,
        formats=formats,
        refused=refused,
        sizes_bytes=sizes,
        fits=require_fit(facts, sizes, profile, context_length),
        context_length=context_length,
        threads=threads,
        disk_bytes=disk_bytes,
        ram_bytes=conversion.peak_bytes,
        notes=(*_unmatched(source.spec, recipe), *_snapped(source.spec, recipe)),
    )


def _supported(
    source: SourceModel, recipe: Recipe, wanted: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Formats that can hold the model, and the reasons of the others; raises when none can."""
    schemes = sorted({recipe.scheme_for(item) for item in source.spec.tensors()}, key=str)
    reasons = {
        name: tuple(get_format(name).reasons_against(source.spec, schemes, source.directory))
        for name in dict.fromkeys(wanted)
    }
    refused = {name: why for name, why in reasons.items() if why}
    if len(refused) == len(reasons):
        told = "; ".join(f"{name}: {', '.join(why)}" for name, why in refused.items())
        raise UnsupportedModel(f"no format can hold this model with recipe {recipe.name}: {told}")
    return tuple(name for name in reasons if name not in refused), refused


def model_facts(spec: DecoderSpec, recipe: Recipe) -> ModelFacts:
    parameters = spec.parameters()
    return ModelFacts(
        family=spec.family,
        parameters=parameters,
        layers=spec.layers,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        context_length=spec.context_length,
        tied_embeddings=spec.tied_embeddings,
        bits_per_weight=checkpoint_bytes(spec, recipe) * 8 / parameters,
        kv_bytes_per_token=spec.kv_bytes_per_token(),
    )


def checkpoint_bytes(spec: DecoderSpec, recipe: Recipe) -> int:
    return sum(_stored_bytes(item, recipe.scheme_for(item)) for item in spec.tensors())


def packed_bytes(spec: DecoderSpec, recipe: Recipe, format_name: str) -> int:
    """Bytes of the weights in one container. GGUF repeats scales per 32; packed safetensors keeps the embedding in float16."""
    total = 0
    for item in spec.tensors():
        scheme = recipe.scheme_for(item)
        if scheme.is_quantized and format_name == "gguf":
            scheme = TensorScheme(scheme.kind, 32)
        if scheme.is_quantized and format_name == "safetensors" and item.name == EMBEDDING:
            scheme = TensorScheme("f16")
        total += _stored_bytes(item, scheme)
    return total


def _stored_bytes(item: TensorSpec, scheme: TensorScheme) -> int:
    count = 1
    for size in item.shape:
        count *= size
    return round(count * scheme.bits_per_weight / 8)


def _require_free_output(out: Path, *, force: bool) -> None:
    """An older artifact may be replaced when that is asked for; anything else there is the user's own."""
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists already", hint="give another -o, or --force to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_NAME).is_file()):
        raise UsageError(
            f"{out} is not an artifact, and --force replaces nothing else", hint="give another -o"
        )


def _require_disk(out: Path, needed_bytes: int) -> None:
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise DoesNotFit(
            f"the export needs {format_bytes(needed_bytes)} on disk, {folder} has {format_bytes(free_bytes)} free",
            hint="free some space, choose another -o, or fewer --format",
        )


def _require_memory(facts: ModelFacts, spec: DecoderSpec, recipe: Recipe, threads: int) -> ConversionEstimate:
    largest = max(spec.tensors(), key=lambda item: _stored_bytes(item, recipe.scheme_for(item)))
    bits = recipe.scheme_for(largest).bits_per_weight
    estimate = conversion_memory(facts, largest_bits_per_weight=bits, threads=threads)
    available_bytes = read_host().available_bytes
    if estimate.peak_bytes > available_bytes:
        worst = max(estimate.stages, key=lambda stage: stage.bytes)
        raise DoesNotFit(
            f"the export needs {format_bytes(worst.bytes)} of memory to {worst.stage} ({worst.basis}), "
            f"{format_bytes(available_bytes)} are available",
            hint="use fewer --threads, or close other programs",
        )
    return estimate


def _snapped(spec: DecoderSpec, recipe: Recipe) -> tuple[str, ...]:
    """Tensors whose rows the recipe's block does not divide, and what they get instead."""
    notes = []
    for item in spec.tensors():
        got, wanted = recipe.scheme_for(item), recipe.wanted_for(item)
        if got != wanted:
            notes.append(
                f"{item.name}: {got} instead of {wanted}, because {wanted.block} does not divide {item.shape[-1]}"
            )
    return tuple(notes)


def _unmatched(spec: DecoderSpec, recipe: Recipe) -> list[str]:
    """Overrides without effect: a misspelt pattern would silently leave its tensors as they are."""
    names = [item.name for item in spec.tensors() if item.role not in ("norm", "bias")]
    patterns = [pattern for pattern in recipe.overrides if not fnmatch.filter(names, pattern)]
    return [f"override {pattern!r} matches no tensor that could be quantized" for pattern in patterns]
