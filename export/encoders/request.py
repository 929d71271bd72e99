"""Plan the export of an encoder: what is written, in how many bits, and what the device has to say about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.devices.catalog import load_profile
from edgeport.devices.int8_range import Int8Range, int8_range
from edgeport.devices.profile import DeviceProfile
from edgeport.errors import DoesNotFit, UnsupportedModel, UsageError
from edgeport.export.encoders.calibrate import calibration_texts
from edgeport.export.encoders.golden import golden_texts
from edgeport.export.encoders.packing import ENCODER_FORMATS, get_encoder_format
from edgeport.export.encoders.recipes import EncoderRecipe, load_encoder_recipe
from edgeport.export.encoders.source import EncoderSource, open_encoder_source
from edgeport.export.formats.table import FORMATS
from edgeport.export.preflight import require_disk, require_free_output
from edgeport.export.preparation import RecoveryWish
from edgeport.export.quantize.solvers import AUTO
from edgeport.export.request import Budget, ExportRequest
from edgeport.export.sizes import stored_bytes
from edgeport.manifest import ModelFacts
from edgeport.units import format_bytes

_ROOM = 1.1
"""Of the weights' bytes on disk: graphs, tokenizers and golden answers beside them."""


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """Everything decided. refused: formats and why; weights_bytes: of each container. calibration: texts for activation ranges,
    empty unless the recipe needs them; golden: texts that the containers are judged on. notes: what the recipe does otherwise."""

    request: ExportRequest
    source: EncoderSource
    recipe: EncoderRecipe
    profile: DeviceProfile
    facts: ModelFacts
    formats: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]
    weights_bytes: int
    int8: Int8Range
    calibration: tuple[str, ...]
    golden: tuple[str, ...]
    notes: tuple[str, ...]


def make_encoder_plan(request: ExportRequest) -> EncoderPlan:
    """Raises UsageError, UnsupportedModel or DoesNotFit, with numbers, before anything is written."""
    _refuse_wishes(request)
    profile = load_profile(request.device)
    recipe = load_encoder_recipe(request.recipe, profile)
    wanted = _wanted_formats(request, profile)
    require_free_output(request.out, force=request.force)
    source = _with_context(open_encoder_source(request.model), request.context_length)
    formats, refused = _supported(source, recipe, wanted)
    size_bytes = weights_bytes(source, recipe)
    if size_bytes > profile.usable_ram_bytes:
        raise DoesNotFit(
            f"the weights take {format_bytes(size_bytes)}, {profile.name} has {format_bytes(profile.usable_ram_bytes)}",
            hint="use --recipe int8 or int4, or another --device",
        )
    require_disk(request.out, int(size_bytes * (1 + len(formats)) * _ROOM))
    calibration = request.calibration.wanted
    text = None if calibration in ("auto", "embedded") else Path(calibration)
    return EncoderPlan(
        request=request,
        source=source,
        recipe=recipe,
        profile=profile,
        facts=encoder_facts(source, size_bytes),
        formats=formats,
        refused=refused,
        weights_bytes=size_bytes,
        int8=int8_range(profile.architecture, profile.isa),
        calibration=calibration_texts(text) if recipe.activations == "static" else (),
        golden=golden_texts(request.gate.heldout),
        notes=_notes(source, recipe),
    )


def weights_bytes(source: EncoderSource, recipe: EncoderRecipe) -> int:
    """Of one container."""
    total = 0
    for item in source.spec.tensors():
        scheme = recipe.storage.scheme_for(item)
        if item.role == "linear" and recipe.activations != "float" and not scheme.is_quantized:
            total += math.prod(item.shape) + 4 * item.shape[0]  # a byte per weight, a float32 scale per row
        else:
            total += stored_bytes(item, scheme)
    return total


def encoder_facts(source: EncoderSource, size_bytes: int) -> ModelFacts:
    """An encoder keeps no keys and values."""
    spec = source.spec
    parameters = spec.parameters()
    return ModelFacts(
        family=spec.family,
        parameters=parameters,
        layers=spec.layers,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        heads=spec.heads,
        kv_heads=spec.heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        context_length=source.settings.max_length or spec.context_length,
        tied_embeddings=False,
        bits_per_weight=size_bytes * 8 / parameters,
        kv_bytes_per_token=0,
    )


def _refuse_wishes(request: ExportRequest) -> None:
    """What an export of a decoder does and this one does not, all told at once."""
    wishes = {
        f"--solver {request.solver}": request.solver not in (None, "rtn", AUTO),
        "--target-bits, --target-size, --target-memory and --time-budget": request.budget != Budget(),
        "--deployment-checks": request.gate.deployment_checks,
        "pruning and recovery": request.recovery != RecoveryWish(),
    }
    asked = [name for name, is_asked in wishes.items() if is_asked]
    if asked:
        raise UsageError(
            f"not for encoders: {'; '.join(asked)}",
            hint="weights are rounded to nearest; give --recipe, --format, --context, --calibration or --heldout",
        )


def _wanted_formats(request: ExportRequest, profile: DeviceProfile) -> tuple[str, ...]:
    if request.formats is None:
        wanted = tuple(name for name in profile.formats if name in ENCODER_FORMATS)
        return wanted or ("onnx",)
    wanted = tuple(dict.fromkeys(request.formats))
    unknown = [name for name in wanted if name not in ENCODER_FORMATS]
    if unknown:
        known = unknown[0] in FORMATS or unknown[0].partition("-")[0] in FORMATS
        told = "is for decoders" if known else "is unknown"
        raise UsageError(
            f"format {unknown[0]!r} {told}", hint=f"formats of encoders are {', '.join(ENCODER_FORMATS)}"
        )
    return wanted


def _with_context(source: EncoderSource, context_length: int | None) -> EncoderSource:
    """The model with a shorter longest text."""
    limit = source.settings.max_length or source.spec.context_length
    if context_length is None:
        return source
    if not 1 <= context_length <= limit:
        raise UsageError(
            f"context {context_length} is not possible: this model's longest text is {limit} tokens",
            hint=f"ask for 1 to {limit}",
        )
    return replace(source, settings=replace(source.settings, max_length=context_length))


def _supported(
    source: EncoderSource, recipe: EncoderRecipe, wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    reasons = {
        name: tuple(get_encoder_format(name).reasons_against(source.spec, recipe, source.directory))
        for name in wanted
    }
    refused = {name: why for name, why in reasons.items() if why}
    if len(refused) == len(reasons):
        told = "; ".join(f"{name}: {', '.join(why)}" for name, why in refused.items())
        raise UnsupportedModel(f"no format can hold this model with recipe {recipe.name}: {told}")
    return tuple(name for name in wanted if name not in refused), refused


def _notes(source: EncoderSource, recipe: EncoderRecipe) -> tuple[str, ...]:
    """Tensors whose rows the recipe's block does not divide, and what they get instead."""
    found = []
    for item in source.spec.tensors():
        got, wanted = recipe.storage.scheme_for(item), recipe.storage.wanted_for(item)
        if got != wanted:
            found.append(
                f"{item.name}: {got} instead of {wanted}, {wanted.block} does not divide {item.shape[-1]}"
            )
    return tuple(found)
