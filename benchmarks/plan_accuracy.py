"""Predicted against measured memory and speed: random-weight twins of three published shapes in three engines.

    edgeport devices detect --engines --save my-machine          # calibrates with random models of other shapes
    python benchmarks/plan_accuracy.py --device my-machine --page docs/devices.md

Every case is one container (INT4, INT8) of one twin in one engine with one context. Predictions come from the twin's config.json
and the profile alone; no row has a part in them. Measured are the largest resident size of a process that fills the context,
and decode and prefill speed at its end, five repetitions. Containers and measurements are kept in --work: a run that was stopped
goes on. Beside ours: what accelerate and two rules of thumb say (plan_accuracy_others.py). Exit 1 with --require when an aim is
missed. Use an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from page_table import insert
from plan_accuracy_measure import Setting, artifact_folder, measure, twin_folder
from plan_accuracy_others import accelerate_bytes, bandwidth_only_tokens_per_s, llmfit_tokens_per_s
from plan_accuracy_predict import predict
from plan_accuracy_rows import Case, Others, Row, missed, spreads
from plan_accuracy_text import page, row_cells, terminal

from edgeport.devices.catalog import load_profile
from edgeport.devices.open_shape import open_shape
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.errors import EdgeportError, UsageError
from edgeport.export.synthetic import synthetic_shapes
from edgeport.progress import Progress
from edgeport.runtimes.bench.environment import capture
from edgeport.runtimes.threads import thread_count

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b")
PRECISIONS = ("int4", "int8")
FORMATS = ("gguf", "onnx", "openvino")
CONTEXTS = (1024, 4096)
TINY_CONTEXTS = (64, 256)
CALIBRATION_BYTES = tuple(10**exponent for exponent in range(6, 10))
"""Sizes of calibration models to compare with: detect chooses one by the machine's cache and memory."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    try:
        profile = load_profile(given.device)
        work = given.work / "tiny" if given.tiny else given.work
        setting = Setting(work, thread_count(given.threads), given.repetitions, given.tiny)
        rows = collect(given, profile, setting)
    except EdgeportError as error:
        print(f"plan_accuracy: {error.message}", file=sys.stderr)
        print(f"  {error.hint}" if error.hint else "", file=sys.stderr)
        return error.exit_code
    found = spreads(rows)
    print(terminal(rows, found))
    if given.page is not None:
        environment = capture()
        machine = (
            f"{environment.cpu_model}, {setting.threads} threads, {setting.repetitions} repetitions; "
            f"rates from: {profile.kernels[0].source}"
        )
        insert(page(rows, found, machine), given.page, Path(__file__).name)
    return 1 if given.require and missed(found) else 0


def collect(given: argparse.Namespace, profile: DeviceProfile, setting: Setting) -> list[Row]:
    """One row per case, in the order of the tables; each is told as soon as it is there."""
    progress = Progress()
    rows = []
    for name in given.models:
        shape = open_shape(str(twin_folder(name, setting)))
        require_independent(profile, shape)
        for precision in given.precisions:
            artifact = artifact_folder(name, precision, list(FORMATS), setting)
            accelerate = accelerate_bytes(twin_folder(name, setting), precision)
            cases = [Case(name, precision, *rest) for rest in product(given.formats, given.contexts)]
            for case in cases:
                predicted = predict(case, shape, profile)  # before anything is measured
                measured = measure(case, artifact, setting, progress)
                others = _others(case, profile, shape, measured.file_bytes, accelerate)
                rows.append(Row(case, measured, predicted, others))
                print(f"{case.slug}: {' '.join(row_cells(rows[-1])[4:])}", file=sys.stderr)
    return rows


def _others(
    case: Case, profile: DeviceProfile, shape: ModelShape, file_bytes: int, accelerate: int | None
) -> Others:
    bandwidth = profile.memory_bandwidth_bytes_per_s
    return Others(
        accelerate,
        bandwidth_only_tokens_per_s(bandwidth, file_bytes),
        llmfit_tokens_per_s(bandwidth, shape.parameters, case.precision),
    )


def require_independent(profile: DeviceProfile, shape: ModelShape) -> None:
    """Raises UsageError for a profile nobody calibrated, or one that was calibrated on the model that is to be predicted."""
    if not profile.kernels:
        raise UsageError(
            f"the profile '{profile.name}' holds no measured kernel rates",
            hint="edgeport devices detect --engines --save NAME, then --device NAME",
        )
    for size in CALIBRATION_BYTES:
        for bits in (4, 8):
            for synthetic in synthetic_shapes(size, bits):
                if (synthetic.hidden_size, synthetic.layers) == (shape.hidden_size, shape.layers):
                    raise UsageError(
                        f"'{shape.name}' has the shape of a calibration model: {shape.layers} layers of {shape.hidden_size}"
                    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="host", help="a profile with kernel rates (default: host)")
    parser.add_argument(
        "--models", type=_names, default=MODELS, metavar="A,B", help=f"default: {','.join(MODELS)}"
    )
    parser.add_argument("--precisions", type=_names, default=PRECISIONS, metavar="A,B")
    parser.add_argument("--formats", type=_names, default=FORMATS, metavar="A,B")
    parser.add_argument("--contexts", type=_numbers, metavar="N,N", help="default: 1024,4096")
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the physical cores")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "plan_accuracy", metavar="DIR",
        help="where twins, containers and measurements are kept",
    )  # fmt: skip
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page to put the tables into")
    parser.add_argument("--require", action="store_true", help="exit 1 when an aim is missed")
    parser.add_argument(
        "--tiny", action="store_true", help="small shapes, to try the script; figures mean nothing"
    )
    given = parser.parse_args(arguments)
    given.contexts = given.contexts or (TINY_CONTEXTS if given.tiny else CONTEXTS)
    return given


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(name) for name in _names(text))


if __name__ == "__main__":
    sys.exit(main())
