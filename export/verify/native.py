"""Containers in a format's own scheme: their weights are their own, so they get an identity and golden answers of their own.

At export the container is read back by the independent reader, every row is compared with the source, and the dequantized
weights run through the numpy reference. From then on `verify_artifact` holds the container to what was found:
`weights-NAME.json` has the digests, `golden-NAME.json` the answers. A container whose rows are not near the source's
(shuffled rows, swapped tensors, a wrong scale) never gets an identity.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import GateFailure
from edgeport.export.checkpoint import tensor_digest, weights_id
from edgeport.export.quantize.run import copy_side_files
from edgeport.export.safetensors_file import SafetensorsWriter, TensorPlan
from edgeport.export.source import SourceModel, open_source
from edgeport.export.verify.artifact import weights_name
from edgeport.export.verify.container import read_weights
from edgeport.export.verify.golden import compute_golden, golden_name, write_golden
from edgeport.manifest import base_format
from edgeport.progress import Progress
from edgeport.runtimes.isolation import run_isolated

Floats = npt.NDArray[np.float32]

_PIECE_ROWS_BYTES = 32 << 20
_SMALL_ROW = 0.1
"""Rows much smaller than the tensor's are measured against this share of its average row: a scale shared with larger
neighbours rounds them coarsely, and they weigh little."""
_FAR = 1.0
"""Relative error of a row from which it is not the source's row: rounding to nearest, even to -1, 0 and 1, loses less than
the row itself; a row that belongs elsewhere is off by its own length and another's."""
_FLOAT_ERROR = 1e-3
_ERROR_OF_ONE_BIT = 6.0
"""Allowed relative error of a tensor: this times 2**-bits. Gaussian weights give 1.8, measured from Q2_K to Q8_0."""


@dataclass(frozen=True, slots=True)
class NativeIdentity:
    """weights_id: of the dequantized weights. relative_errors: ||got - source|| / ||source|| by Hugging Face name."""

    weights_id: str
    relative_errors: Mapping[str, float]


def native_identity(
    name: str, entry_point: Path, source: SourceModel, artifact: Path, progress: Progress
) -> NativeIdentity:
    """Read a new container back and leave `weights-NAME.json` and `golden-NAME.json` in the folder `artifact`.

    Needs 4 bytes of disk per weight beside `artifact` while it runs. Raises GateFailure for a tensor that is missing,
    not finite, of another shape or not near the source's; ArtifactError for a file that cannot be read.
    """
    with (
        progress.stage(f"read back {name}"),
        tempfile.TemporaryDirectory(dir=artifact.parent, prefix=".edgeport-float-") as folder,
    ):
        arguments = {
            "format_name": name,
            "entry_point": str(entry_point),
            "source": str(source.directory),
            "folder": folder,
        }
        found = run_isolated(f"{__name__}:dequantize_in_child", arguments, timeout_s=None)
        copy_side_files(source.directory, Path(folder))
        golden = compute_golden(Path(folder))
    digests = {weight: str(item["digest"]) for weight, item in found.items()}
    (artifact / weights_name(name)).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    write_golden(golden, artifact, golden_name(name))
    errors = {weight: float(item["relative_error"]) for weight, item in found.items()}
    return NativeIdentity(weights_id(digests), errors)


def dequantize_in_child(
    format_name: str, entry_point: str, source: str, folder: str
) -> dict[str, dict[str, Any]]:
    """In the child: every tensor as float32 safetensors into `folder`; its digest and distance from the source's."""
    model = open_source(source)
    expected = {item.name: item.shape for item in model.spec.tensors()}
    roles = {item.name: item.role for item in model.spec.tensors()}
    # The reference reads a folder as the family stores it: there norms lie without what the network adds to them.
    offset = np.float32(model.spec.storage.norm_offset)
    bits = stored_bits(format_name, Path(entry_point))
    found: dict[str, dict[str, Any]] = {}
    for number, (name, values) in enumerate(read_weights(base_format(format_name), Path(entry_point))):
        if name not in expected or values.shape != expected[name]:
            raise GateFailure(
                f"{format_name} holds {name} of shape {list(values.shape)}, the source has {expected.get(name)}"
            )
        error = nearness(name, values, model.tensor(name))
        if not error <= allowed_error(bits.get(name)):
            raise GateFailure(
                f"{name} is off by {error:.2g} of its length, allowed is {allowed_error(bits.get(name)):.2g}"
            )
        model.weights.release(name)
        found[name] = {"digest": tensor_digest(values), "relative_error": error}
        plan = [TensorPlan(name, "F32", values.shape)]
        with SafetensorsWriter(Path(folder) / f"{number:05d}.safetensors", plan) as writer:
            writer.write(name, values - offset if roles[name] == "norm" else values)
    missing = sorted(set(expected) - set(found))
    if missing:
        raise GateFailure(
            f"{format_name} lacks {missing[0]} and {len(missing) - 1} more of the source's tensors"
        )
    return found


def stored_bits(format_name: str, entry_point: Path) -> dict[str, float]:
    """Bits per weight of each tensor by Hugging Face name, where the format tells: GGUF types do."""
    if base_format(format_name) != "gguf":
        return {}
    from edgeport.export.verify.gguf_header import read_header
    from edgeport.export.verify.read_gguf import hugging_face_names

    header = read_header(entry_point)
    return {
        name: 8 * (info.stop - info.start) / math.prod(info.shape)
        for info in header.tensors
        for name in hugging_face_names(header, info.name)
    }


def allowed_error(bits: float | None) -> float:
    """Largest relative error of a tensor stored in so many bits; a tensor may lose itself where nothing is known."""
    return _FAR if bits is None else min(max(_ERROR_OF_ONE_BIT * 2**-bits, _FLOAT_ERROR), _FAR)


def nearness(name: str, values: Floats, source: npt.NDArray[Any]) -> float:
    """Relative error of a tensor. Raises GateFailure naming the first row that is not the source's, or not finite.

    Vectors (norms, biases) must be equal: no scheme quantizes them.
    """
    if values.ndim == 1:
        if not np.array_equal(values, source.astype(np.float32)):
            raise GateFailure(f"{name} differs from the source, and vectors are not quantized")
        return 0.0
    wrong = right = 0.0
    squares = np.concatenate([np.einsum("ij,ij->i", piece, piece) for piece in _pieces(source)])
    floor = _SMALL_ROW**2 * float(squares.mean())
    start = 0
    for piece in _pieces(source):
        difference = values[start : start + len(piece)] - piece
        errors = np.einsum("ij,ij->i", difference, difference)
        lengths = np.maximum(squares[start : start + len(piece)], floor)
        far = np.flatnonzero(~(errors <= _FAR**2 * lengths))
        if far.size:
            row = int(far[0])
            raise GateFailure(
                f"{name}: row {start + row} is off by {np.sqrt(errors[row] / max(lengths[row], 1e-30)):.2g} of its own "
                f"length, allowed is less than {_FAR:g}: it is not the source's row"
            )
        wrong, right = wrong + float(errors.sum()), right + float(squares[start : start + len(piece)].sum())
        start += len(piece)
    return float(np.sqrt(wrong / right)) if right else 0.0


def _pieces(source: npt.NDArray[Any]) -> Iterator[Floats]:
    """Rows as float32, a few at a time."""
    step = max(1, _PIECE_ROWS_BYTES // (4 * source.shape[1]))
    for start in range(0, source.shape[0], step):
        yield source[start : start + step].astype(np.float32)
