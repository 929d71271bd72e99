"""Decide what pruning will do, before anything runs: shapes, sizes, rounding, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.families.table import read_spec
from edgeport.export.prune.config import changed_config
from edgeport.export.prune.kept import Kept
from edgeport.export.prune.per_layer import nas_config
from edgeport.export.prune.settings import PruneSettings, settings_from
from edgeport.export.prune.snap import snap_for, unknown_formats
from edgeport.export.prune.table import METHODS, get_method
from edgeport.export.prune.vocabulary import VocabularyCut, plan_vocabulary
from edgeport.export.source import SourceModel

LARGEST_CUT = 1 / 3
"""Of the parameters in one go; Minitron's advice (NVIDIA Model Optimizer, examples/pruning) is to iterate beyond."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """config: config.json of the cut model; spec: what it says. notes: rounding and changes; warnings: what will hurt."""

    source: SourceModel
    settings: PruneSettings
    config: Mapping[str, Any]
    spec: DecoderSpec
    snap: int
    vocabulary: VocabularyCut | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of the weights at 16 bits."""
        return 2 * self.spec.parameters()

    def to_document(self) -> dict[str, Any]:
        """Plain values for `--json` and provenance.json."""
        return {
            "settings": self.settings.to_document(),
            "snap": self.snap,
            "before": shape_document(self.source.spec),
            "after": shape_document(self.spec),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def shape_document(spec: DecoderSpec) -> dict[str, Any]:
    widths = [shape.intermediate_size for shape in spec.layer_shapes]
    return ({"intermediate_sizes": widths} if widths else {}) | {
        "family": spec.family,
        "layers": spec.layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "parameters": spec.parameters(),
        "size_bytes_bf16": 2 * spec.parameters(),
    }


def plan_prune(source: SourceModel, settings: PruneSettings, formats: Sequence[str] = ()) -> PrunePlan:
    """Raises UsageError or UnsupportedModel for what this model cannot be cut to, or when nothing is cut."""
    settings_from(settings.to_document())
    _check(settings, formats)
    if not source.spec.is_llama or not source.spec.storage.is_plain:
        raise UnsupportedModel(
            f"models of family {source.spec.family} are not pruned: their layers are not Llama's",
            hint="families llama, qwen2 and nemotron-nas are pruned; this one can be quantized",
        )
    if source.spec.layer_shapes and settings.amounts():
        raise UnsupportedModel(
            f"the layers of {source.name} have different widths already",
            hint="prune the model it was made from; --vocabulary works on it",
        )
    snap, notes = _snap(settings, formats)
    spec = left = source.spec
    changes: dict[str, Any] = {}
    for name in METHODS:
        wanted = settings.amounts().get(name)
        if wanted is not None:
            change = get_method(name).change(left, wanted, snap)
            left = read_spec({**left.config, **change.config})
            changes |= change.config
            notes += change.notes
    cut = plan_vocabulary(source, settings.vocabulary) if settings.vocabulary is not None else None
    if cut is not None:
        changes |= cut.config
        notes += cut.notes
    config = changed_config(spec.config, changes, notes)
    if settings.per_layer:
        width = int(config["intermediate_size"])
        notes.append(
            f"FFN widths: {width} on average, spread over the layers; leaves as nemotron-nas, which llama.cpp and vLLM run and "
            "transformers does not"
        )
        config = nas_config(config, spec, [width] * int(config["num_hidden_layers"]))
    after = read_spec(config)
    if after.parameters() >= spec.parameters():
        raise UsageError(
            f"nothing is cut: {source.name} keeps its {spec.parameters()} parameters",
            hint="; ".join(notes) or "give shares below 1.0, or smaller numbers",
        )
    return PrunePlan(source, settings, config, after, snap, cut, tuple(notes), _warnings(spec, after))


def settled(plan: PrunePlan, kept: Kept) -> PrunePlan:
    """The plan with the widths that were chosen, where they may differ; their sum was planned."""
    if not plan.settings.per_layer:
        return plan
    blocks = [
        {**block, "ffn": {"intermediate_size": len(kept.ffn[layer])}}
        for layer, block in zip(kept.layers, plan.config["block_configs"], strict=True)
    ]
    config = {**plan.config, "block_configs": blocks}
    return replace(plan, config=config, spec=read_spec(config))


def _check(settings: PruneSettings, formats: Sequence[str]) -> None:
    if not settings.amounts() and settings.vocabulary is None:
        raise UsageError(
            "nothing to prune was named", hint="give --ffn, --heads, --layers, --embedding or --vocabulary"
        )
    if settings.per_layer and settings.ffn is None:
        raise UsageError(
            "--per-layer spreads the feed-forward width over the layers",
            hint="give --ffn, the average that is kept",
        )
    unknown = unknown_formats(formats)
    if unknown:
        raise UsageError(f"unknown format {unknown[0]!r}", hint="edgeport export --help names the formats")


def _snap(settings: PruneSettings, formats: Sequence[str]) -> tuple[int, list[str]]:
    wanted, reason = snap_for(formats)
    if settings.snap is None:
        note = f"widths are multiples of {wanted}, which {reason} packs best"
        return wanted, [note] if reason and (settings.ffn or settings.embedding) else []
    if settings.snap < wanted:
        return settings.snap, [
            f"{reason} would pack multiples of {wanted} better than those of {settings.snap}"
        ]
    return settings.snap, []


def _warnings(before: DecoderSpec, after: DecoderSpec) -> tuple[str, ...]:
    cut = 1 - after.parameters() / before.parameters()
    if cut <= LARGEST_CUT:
        return ()
    return (
        f"{100 * cut:.0f}% of the parameters go at once, more than a third: prune less, recover by distillation, prune again",
    )
