"""Where it all comes from: the machine that was measured on, the model, the recipe, what the export took, the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.manifest import Manifest, from_json
from edgeport.runtimes.bench.compare import dig
from edgeport.runtimes.bench.environment import Environment
from edgeport.runtimes.report.markup import Markup, element
from edgeport.runtimes.report.rows import number
from edgeport.runtimes.report.tables import facts, not_measured, table
from edgeport.units import format_bytes, format_seconds


def environment_section(manifest: Manifest) -> Markup:
    """Of the first record; another record's that differs is named."""
    known: dict[str, Environment] = {}
    for name, record in manifest.speed.items():
        try:
            known[name] = from_json(Environment, dig(record, "environment"))
        except (KeyError, TypeError):
            continue
    if not known:
        return not_measured("Speed and memory", "`edgeport bench` measures them.")
    first = next(iter(known.values()))
    rows = first.rows()
    threads = {name: dig(manifest.speed[name], "threads") for name in known}
    rows.insert(2, ("Threads used", ", ".join(sorted({str(value) for value in threads.values()}))))
    rows.append(
        ("Measured", ", ".join(sorted({str(dig(manifest.speed[name], "measured_at")) for name in known})))
    )
    energy = [f"{name} {told}" for name in known if (told := _energy(manifest.speed[name]))]
    if energy:
        rows.append(("Energy", ", ".join(energy)))
    others = [name for name, item in known.items() if item.cpu_model != first.cpu_model]
    if others:
        rows.append(("Other machines", ", ".join(f"{name}: {known[name].cpu_model}" for name in others)))
    return facts(rows)


def _energy(record: Any) -> str:
    """Of a decoded token, or why it could not be read; empty where nobody tried."""
    joules = number(record, "energy.joules_per_token")
    if joules is not None:
        return f"{joules:.3g} J per token"
    return str(dig(record, "energy.unavailable") or "")


def model_section(manifest: Manifest) -> Markup:
    model, source = manifest.model, manifest.source
    rows = [
        ("Source", f"{source.name}, {format_bytes(source.size_bytes)}, {source.dtype}"),
        ("Source fingerprint", source.fingerprint),
        ("weights_id", manifest.weights_id),
        (
            "Shape",
            f"{model.layers} layers, hidden {model.hidden_size}, feed-forward {model.intermediate_size}",
        ),
        ("Attention", f"{model.heads} heads of {model.head_dim}, {model.kv_heads} for key and value"),
        (
            "Vocabulary",
            f"{model.vocab_size:,} tokens, embeddings {'tied' if model.tied_embeddings else 'not tied'}",
        ),
        (
            "Context",
            f"{model.context_length:,} tokens, {format_bytes(model.kv_bytes_per_token)} of cache each",
        ),
        (
            "Made with",
            ", ".join(f"{name} {version}" for name, version in manifest.tool_versions.items())
            or "not recorded",
        ),
    ]
    return facts(rows)


def recipe_section(manifest: Manifest) -> Markup:
    """Every setting of the recipe, and the text that codes were solved on."""
    rows = flattened(manifest.recipe)
    rows += [(f"calibration, {name}", value) for name, value in flattened(manifest.calibration)]
    return facts(rows) if rows else not_measured("Recipe")


def cost_section(manifest: Manifest) -> Markup | None:
    """What the export took, where it was recorded."""
    cost = manifest.cost
    seconds = dig(cost, "seconds")
    rows = [
        (name.capitalize(), format_seconds(value))
        for name, value in (seconds if isinstance(seconds, Mapping) else {}).items()
        if isinstance(value, (int, float))
    ]
    for key, label in (
        ("peak_ram_bytes", "Peak memory"),
        ("verify_peak_ram_bytes", "Peak memory, verifying"),
    ):
        if isinstance(dig(cost, key), int):
            rows.append((label, format_bytes(cost[key])))
    return facts(rows) if rows else None


def files_section(manifest: Manifest) -> Markup:
    cells = [
        [item.path, format_bytes(item.size_bytes), item.sha256]
        for entry in manifest.containers
        for item in entry.files
    ]
    total = sum(entry.size_bytes for entry in manifest.containers)
    return element(
        "details",
        element("summary", f"{len(cells)} files, {format_bytes(total)}, with their sha256"),
        table(["file", "size", "sha256"], cells, name="Files", style="files"),
    )


def flattened(document: Any, prefix: str = "") -> list[tuple[str, str]]:
    """`{"prune": {"ffn": 0.75}}` as `("prune.ffn", "0.75")`; what is empty or None is left out."""
    if isinstance(document, Mapping):
        return [
            row
            for key, value in document.items()
            for row in flattened(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    if document is None or (isinstance(document, (list, tuple)) and not document):
        return []
    if isinstance(document, (list, tuple)):
        return [(prefix, ", ".join(str(item) for item in document))]
    if isinstance(document, bool):
        return [(prefix, "yes" if document else "no")]
    return [(prefix, str(document))]
