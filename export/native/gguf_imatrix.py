"""The importance matrix: for each linear, the mean square of every input feature over the calibration text.

llama.cpp weights the rounding error of each weight with it. Our calibration pass gathers the same number as
`NAME.second_moment`; reordered rows of q and k do not matter, because there is one number per column. The file is
llama.cpp's own (tools/imatrix): `general.type` "imatrix", the text and its chunks, and for each tensor NAME the sums
`NAME.in_sum2` [1, in_features] and `NAME.counts` [1, 1], both float32. The mean is their quotient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFWriter
from gguf.constants import Keys

from edgeport.errors import ArtifactError, UsageError
from edgeport.export.calibrate.run import TEXT_SHAPE
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.gguf_tensors import gguf_name
from edgeport.export.safetensors_file import SafetensorsFile

Floats = npt.NDArray[np.float32]

IMATRIX_NAME = "imatrix.gguf"
SECOND_MOMENT = ".second_moment"
_SUM, _COUNT = ".in_sum2", ".counts"
_SMALLEST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class ImatrixText:
    """The calibration text as the file tells of it. Unknown sizes are 1: the sums in the file are means then."""

    dataset: str = "edgeport calibration"
    windows: int = 1
    n_ctx: int = 1


def read_text(statistics: Path) -> ImatrixText:
    """How much text the statistics are of; windows and context are 1 where the file does not say."""
    file = SafetensorsFile(statistics)
    if TEXT_SHAPE not in file.entries:
        return ImatrixText()
    windows, n_ctx = (int(value) for value in file.tensor(TEXT_SHAPE))
    return ImatrixText(windows=windows, n_ctx=n_ctx)


def read_importance(statistics: Path, spec: DecoderSpec) -> dict[str, Floats]:
    """Importance [in_features] of every linear of `spec` by GGUF name, from the file of a calibration pass.

    Features that were always zero get a millionth of the mean: a block without any importance llama.cpp writes as zeros,
    which is wrong for the first text that uses it. Raises UsageError when a linear is missing, has another width, or is not finite.
    """
    file = SafetensorsFile(statistics)
    found = {}
    for item in spec.tensors():
        name = item.name + SECOND_MOMENT
        if item.role != "linear" and name not in file.entries:
            continue
        if len(item.shape) == 1:
            continue
        if name not in file.entries or file.entries[name].shape != (item.shape[-1],):
            shape = list(file.entries[name].shape) if name in file.entries else "nothing"
            raise UsageError(
                f"{statistics} has {shape} for {name}, expected [{item.shape[-1]}]",
                hint="the statistics are of another model: calibrate this one",
            )
        # Parts of one tensor see the same input, so it does not matter whose importance is kept.
        found[gguf_name(spec, item.name)] = _usable(np.array(file.tensor(name), dtype=np.float32), name)
    return found


def _usable(values: Floats, name: str) -> Floats:
    if not np.isfinite(values).all() or (values < 0).any():
        raise UsageError(f"{name} holds values that are no mean squares", hint="calibrate again")
    smallest = np.float32(values.mean(dtype=np.float64) * _SMALLEST_SHARE)
    return np.maximum(values, smallest) if smallest > 0 else np.ones_like(values)


def write_imatrix(path: Path, importance: Mapping[str, Floats], text: ImatrixText) -> None:
    """Write llama.cpp's file, whole or not at all. `importance`: means by GGUF tensor name."""
    temporary = path.with_name(path.name + ".part")
    writer = GGUFWriter(temporary, "")  # without an architecture: an imatrix has none
    writer.add_type("imatrix")
    writer.add_array(Keys.IMatrix.DATASETS, [text.dataset])
    writer.add_uint32(Keys.IMatrix.CHUNK_COUNT, text.windows)
    writer.add_uint32(Keys.IMatrix.CHUNK_SIZE, text.n_ctx)
    tokens = np.float32(text.windows * text.n_ctx)
    for name, values in importance.items():
        writer.add_tensor(name + _SUM, (values * tokens)[None, :])
        writer.add_tensor(name + _COUNT, np.full((1, 1), tokens, dtype=np.float32))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    temporary.replace(path)


def read_imatrix(path: Path) -> dict[str, Floats]:
    """Means [in_features] by GGUF tensor name, as llama.cpp's tools compute them. Raises ArtifactError."""
    try:
        tensors = {item.name: np.array(item.data) for item in GGUFReader(path).tensors}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as an imatrix: {error}") from error
    names = [name.removesuffix(_SUM) for name in tensors if name.endswith(_SUM)]
    missing = [name for name in names if name + _COUNT not in tensors]
    if not names or missing:
        raise ArtifactError(f"{path} is no imatrix: {missing[0] if missing else 'it'} has no sums and counts")
    return {name: (tensors[name + _SUM] / tensors[name + _COUNT]).reshape(-1) for name in names}
