"""A plan on one page that needs nothing else: the roofline, memory bars, the table and what is advised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeport.cli.plan_plots import DeviceLine, MemoryBar, Prediction, memory_plot, roofline_plot
from edgeport.cli.plan_text import HEADERS, cells
from edgeport.devices.plan import DevicePlan
from edgeport.devices.plan_model import ModelPlan
from edgeport.devices.plan_row import PlanRow
from edgeport.devices.profile import DeviceProfile
from edgeport.errors import UsageError
from edgeport.runtimes.report.document import html_page
from edgeport.runtimes.report.markup import Markup, element, join
from edgeport.runtimes.report.tables import table
from edgeport.units import format_count

MOST_POINTS = 24
"""More labels than this cannot be read in one picture; the table has all rows."""


def write_page(
    plan: ModelPlan, rows: Sequence[PlanRow], profiles: Sequence[DeviceProfile], path: Path
) -> Path:
    """Write the page, whole or not at all. Raises UsageError where it cannot be written."""
    title = f"What holds {plan.model.name}"
    body = [element("h1", title), _model(plan), _plots(rows, profiles), _table(rows), _devices(plan)]
    text = html_page(title, body)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}", hint="give --html another file") from error
    return path


def _model(plan: ModelPlan) -> Markup:
    model, tier = plan.model, plan.tier
    text = (
        f"{model.family}, {format_count(model.parameters)} parameters, {model.layers} layers, context up to "
        f"{model.context_length} tokens. Tier {tier.name}: {tier.hardware}, {tier.precision}."
    )
    return element("p", text, attributes={"class": "quiet"})


def _plots(rows: Sequence[PlanRow], profiles: Sequence[DeviceProfile]) -> Markup:
    shown = rows[:MOST_POINTS]
    left_out = f" The first {MOST_POINTS} of {len(rows)} rows." if len(rows) > len(shown) else ""
    decoding = [row for row in shown if row.speed is not None]
    figures = []
    if decoding:
        plot = roofline_plot(
            [_prediction(row, shown) for row in decoding],
            _lines(decoding, {item.name: item for item in profiles}),
        )
        caption = (
            "Predicted decoding with its interval; hollow: does not fit as it is. Lines: what a device's memory delivers by its "
            f"data sheet, all GPUs of the row together.{left_out}"
        )
        figures.append(element("figure", plot, element("figcaption", caption)))
    if shown:
        caption = (
            "From dark to light: weights, KV cache, compute buffers, engine; of the fullest GPU where there are several. The mark is "
            f"what is usable.{left_out}"
        )
        plot = memory_plot([_bar(row, shown) for row in shown])
        figures.append(element("figure", plot, element("figcaption", caption)))
    return element("div", *figures, attributes={"class": "plots"})


def _label(row: PlanRow, shown: Sequence[PlanRow]) -> str:
    """Device and container, without what all rows share."""
    parts = [row.device] if len({item.device for item in shown}) > 1 else []
    if len(shown) > len({item.device for item in shown}):
        parts += [row.format, row.precision]
    return " ".join(parts or [row.device])


def _prediction(row: PlanRow, shown: Sequence[PlanRow]) -> Prediction:
    speed = row.speed
    assert speed is not None
    return Prediction(
        label=_label(row, shown),
        bytes_per_token=speed.bytes_per_token,
        tokens_per_s=speed.decode_tokens_per_s,
        low_tokens_per_s=speed.decode_low_tokens_per_s,
        high_tokens_per_s=speed.decode_high_tokens_per_s,
        fits=row.fits,
    )


def _lines(rows: Sequence[PlanRow], profiles: dict[str, DeviceProfile]) -> list[DeviceLine]:
    """One roof for each device and number of GPUs among the rows."""
    lines = {}
    for row in rows:
        profile = profiles[row.device]
        gpu = profile.gpu
        on_gpu = row.gpus > 0 and gpu is not None
        bandwidth = (
            gpu.memory_bandwidth_bytes_per_s * (row.split.tensor_parallel if row.split else 1)
            if on_gpu and gpu is not None
            else profile.memory_bandwidth_bytes_per_s
        )
        name = f"{row.device}, {bandwidth / 1e9:.4g} GB/s"
        lines[name] = DeviceLine(name, bandwidth)
    return list(lines.values())


def _bar(row: PlanRow, shown: Sequence[PlanRow]) -> MemoryBar:
    memory = row.memory
    parts: tuple[int, int, int, int] = (
        memory.weights_bytes, memory.kv_cache_bytes, memory.compute_bytes, memory.overhead_bytes,
    )  # fmt: skip
    if row.split is not None:
        fullest = max(row.split.stages, key=lambda stage: stage.required_bytes)
        parts = (
            fullest.weights_bytes, fullest.kv_cache_bytes, fullest.compute_bytes, fullest.overhead_bytes,
        )  # fmt: skip
    return MemoryBar(_label(row, shown), parts, row.available_bytes)


def _table(rows: Sequence[PlanRow]) -> Markup:
    return table(HEADERS, [cells(row) for row in rows], name="Devices and containers")


def _devices(plan: ModelPlan) -> Markup:
    """Method, advice and launch line of each device's best row."""
    return join([_device(device) for device in plan.devices if device.best is not None])


def _device(device: DevicePlan) -> Markup:
    row = device.best
    assert row is not None
    style = {"fits": "", "fits with changes": " warning", "no": " bad"}[row.verdict]
    items = [
        element("li", text, attributes={"class": "good" if row.fits else "warning"})
        for text in (row.reason, *row.advice_text, *device.notes)
    ]
    launch = [element("pre", row.launch)] if row.fits else []
    return element(
        "div",
        element(
            "p",
            f"{device.device}: {row.format} {row.precision}, {row.verdict}",
            attributes={"class": "headline"},
        ),
        element("p", f"Method {device.method.method}: {device.method.reason}."),
        element("ul", *items),
        *launch,
        attributes={"class": f"verdict{style}"},
    )
