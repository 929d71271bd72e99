"""A plan in words and tables for the terminal; also the cells the page shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeport.table import format_table
from edgeport.units import format_bytes, format_count

if TYPE_CHECKING:
    from edgeport.devices.plan import DevicePlan
    from edgeport.devices.plan_conversion import ConversionPlan
    from edgeport.devices.plan_known import DeviceSizes, KnownModel
    from edgeport.devices.plan_model import ModelPlan
    from edgeport.devices.plan_row import PlanRow
    from edgeport.devices.plan_sizes import SizeLimit
    from edgeport.devices.plan_split import SplitOption
    from edgeport.devices.speed import SpeedEstimate

HEADERS = (
    "device", "format", "precision", "file", "needs", "usable", "max context", "prefill t/s", "decode t/s", "verdict",
)  # fmt: skip
RIGHT = range(3, 9)
UNKNOWN = "?"


def plan_text(plan: ModelPlan, rows: Sequence[PlanRow], *, details: bool) -> str:
    """The table of `rows`; with `details` what was decided for each device and why."""
    parts = [_model_lines(plan)]
    if rows:
        parts.append(format_table(HEADERS, [cells(row) for row in rows], right=RIGHT))
        if rows[0].batch > 1:
            parts.append(f"Memory and decoding speed are of {rows[0].batch} sequences together.")
    without = [device for device in plan.devices if device.best is None]
    parts += [f"{device.device}: {'; '.join(device.refused.values())}" for device in without]
    if details:
        parts += [device_text(device) for device in plan.devices if device.best is not None]
        parts += [conversion_text(plan.conversion)]
    else:
        parts.append(_summary(plan))
    return "\n\n".join(part for part in parts if part)


def cells(row: PlanRow) -> list[str]:
    """One row of HEADERS; no speed where it does not fit: that of the changed model differs."""
    many = f" x {row.gpus}" if row.gpus > 1 else ""
    return [
        row.device,
        row.format,
        row.precision,
        format_bytes(row.file_bytes),
        format_bytes(row.required_bytes) + many,
        format_bytes(row.available_bytes) + many,
        str(row.largest_context_length) if row.largest_context_length else "-",
        prefill_cell(row.speed) if row.fits else "-",
        decode_cell(row.speed) if row.fits else "-",
        row.verdict,
    ]


def decode_cell(speed: SpeedEstimate | None) -> str:
    if speed is None:
        return "-"
    low, high = speed.decode_low_tokens_per_s, speed.decode_high_tokens_per_s
    return _interval(speed.decode_tokens_per_s, low, high)


def prefill_cell(speed: SpeedEstimate | None) -> str:
    if speed is None:
        return "-"
    low, high = speed.prefill_low_tokens_per_s, speed.prefill_high_tokens_per_s
    if speed.prefill_tokens_per_s is None or low is None or high is None:
        return UNKNOWN
    return _interval(speed.prefill_tokens_per_s, low, high)


def _interval(expected: float, low: float, high: float) -> str:
    return f"{_rate(expected)} ({_rate(low)}-{_rate(high)})"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _model_lines(plan: ModelPlan) -> str:
    shape, tier = plan.model, plan.tier
    active = (
        f", {format_count(shape.active_parameters)} active for each token" if shape.experts_per_token else ""
    )
    lines = [
        f"{shape.name}: {shape.family}, {format_count(shape.parameters)} parameters{active}, {shape.layers} layers, "
        f"context up to {shape.context_length} tokens",
        f"tier {tier.name}: {tier.hardware}, {tier.precision}, {tier.size_ratio} smaller than 16 bits",
    ]
    if plan.note:
        lines.append(f"note: {plan.note}")
    return "\n".join(lines)


def _summary(plan: ModelPlan) -> str:
    """What the whole list says: the smallest device, and how many."""
    fitting = [device for device in plan.devices if device.verdict == "fits"]
    mended = [device for device in plan.devices if device.verdict == "fits with changes"]
    lines = [f"{len(fitting)} of {len(plan.devices)} devices hold it, {len(mended)} more with changes."]
    if plan.smallest is not None:
        row = plan.smallest
        lines.append(
            f"The smallest: {row.device}, {row.format} {row.precision}, {format_bytes(row.required_bytes)} of "
            f"{format_bytes(row.available_bytes)}."
        )
    lines.append("`edgeport plan MODEL --device NAME` shows every format of one, with reasons and advice.")
    return "\n".join(lines)


def device_text(device: DevicePlan) -> str:
    """The method and its reason, the row to take, what would make it fit, GPUs, and the launch line."""
    row = device.best
    assert row is not None
    chosen = "take" if row.fits else "nearest"
    lines = [
        f"{device.device} ({device.description})",
        f"  method:  {device.method.method} ({device.method.reason})",
        f"  {chosen + ':':<8} {row.format} {row.precision} with {row.engine}: {row.reason}",
    ]
    if row.speed is None:
        lines.append("  speed:   no decoding: the model keeps nothing of a sequence")
    elif row.fits:
        lines.append(f"  speed:   {row.speed.basis}")
    if row.speed_at_context is not None and row.fits:
        lines.append(
            f"  full:    {decode_cell(row.speed_at_context)} tokens/s at {row.context_length} tokens"
        )
    lines += [f"  {line}" for line in _advice(device, row)]
    lines += [f"  {line}" for line in _splits(device.splits)]
    lines += [f"  note:    {note}" for note in device.notes]
    if row.fits and device.export_line:
        lines.append(f"  export:  {device.export_line}")
    if row.fits:
        lines.append(f"  launch:  {row.launch}")
    lines += [f"  without: {name}: {reason}" for name, reason in device.refused.items()]
    return "\n".join(lines)


def _advice(device: DevicePlan, row: PlanRow) -> Iterator[str]:
    if row.fits:
        return
    if row.advice.together:
        yield f"to fit:  all of: {row.advice_text[0]}"
    elif row.advice.alone:
        yield "to fit, each alone is enough:"
        yield from (f"  - {text}" for text in row.advice_text)
    else:
        yield "to fit:  no change of context, cache, batch, bits or feed-forward width is enough"
        if device.instead:
            yield f"instead: {device.instead}"


def _splits(options: Sequence[SplitOption]) -> Iterator[str]:
    if not options:
        return
    yield "GPUs:    tensor x pipeline, memory on the fullest GPU"
    for option in options:
        name = f"{option.tensor_parallel} x {option.pipeline_parallel}"
        if option.obstacles:
            yield f"  {name:<6} not possible: {'; '.join(option.obstacles)}"
        else:
            verdict = "fits" if option.fits else "does not fit"
            yield f"  {name:<6} {format_bytes(option.required_bytes)} of {format_bytes(option.available_bytes)}, {verdict}"


def conversion_text(conversion: ConversionPlan | None) -> str:
    """What the export itself takes on the machine where it runs."""
    if conversion is None:
        return ""
    rows = [[stage.stage, format_bytes(stage.bytes), stage.basis] for stage in conversion.stages]
    table = format_table(["export, stage", "memory", "for"], rows, right=(1,))
    return (
        f"{table}\npeak {format_bytes(conversion.peak_bytes)}; disk {format_bytes(conversion.disk_bytes)}: "
        f"{conversion.disk_basis}\n{conversion.time_note}"
    )


def sizes_text(sizes: DeviceSizes) -> str:
    """Which sizes fit a device: solved limits first, then known models."""
    known = [_known_cells(item) for item in sizes.known]
    return "\n\n".join(
        [
            f"{sizes.device} ({sizes.description}): {sizes.memory}",
            _limits(sizes.limits),
            format_table(
                ["model", "parameters", "format", "precision", "max context", "decode t/s", "verdict"],
                known,
                right=(1, 4, 5),
            ),
        ]
    )


def _known_cells(item: KnownModel) -> list[str]:
    row = item.row
    if row is None:
        return [item.model, format_count(item.parameters), *["-"] * 4, f"no: {item.reason}"]
    return [
        item.model,
        format_count(item.parameters),
        row.format,
        row.precision,
        str(row.largest_context_length) if row.fits else "-",
        decode_cell(row.speed) if row.fits else "-",
        row.verdict if row.fits else f"no: needs {format_bytes(row.required_bytes)}",
    ]


def _limits(limits: Sequence[SizeLimit]) -> str:
    """One row per container, one column per context: the largest model and how fast it would decode."""
    contexts = sorted({limit.context_length for limit in limits})
    table: dict[tuple[str, str], dict[int, str]] = {}
    for limit in limits:
        table.setdefault((limit.format, limit.precision), {})[limit.context_length] = _limit(limit)
    rows = [[*name, *(cells.get(context, "-") for context in contexts)] for name, cells in table.items()]
    headers = ["up to", "", *(f"{context} tokens" for context in contexts)]
    return format_table(headers, rows, right=range(2, len(headers)))


def _limit(limit: SizeLimit) -> str:
    if limit.row is None or limit.row.speed is None:
        return "none"
    over = "over " if limit.is_top else ""
    return f"{over}{format_count(limit.parameters)}, {_rate(limit.row.speed.decode_tokens_per_s)} t/s"
