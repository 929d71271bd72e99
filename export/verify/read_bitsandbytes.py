"""Read a folder of bitsandbytes' NF4 or LLM.int8 weights back by the published definitions, without bitsandbytes.

NF4 (arXiv:2305.14314, appendix E): 16 levels, two codes to a byte, the first in the high nibble, one absmax per block
of the flattened weight. Double quantization: absmax itself is a byte, looked up in a stored map of 256 levels, times an
absmax per block of its own, plus one offset. LLM.int8 (arXiv:2208.07339): int8 codes, row-wise absmax over 127.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError
from edgeport.lazy import missing_extra

Floats = npt.NDArray[np.float32]
Stored = Callable[[str], npt.NDArray[Any]]

NF4_LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    dtype=np.float32,
)  # fmt: skip
_STATE = ".quant_state.bitsandbytes__nf4"
_PARTS = (".absmax", ".nested_absmax", ".nested_quant_map", ".quant_map", _STATE)
_INT8_PARTS = (".SCB", ".weight_format")


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """(Hugging Face name, float32 values) of every weight under the folder of `path` (its config.json).

    Raises ArtifactError naming the file and tensor when parts are missing or do not fit together.
    """
    with missing_extra("eval", purpose="reading safetensors"):
        from safetensors import SafetensorError, safe_open
    for file in sorted(path.parent.glob("*.safetensors")):
        try:
            stream: Any = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{file} cannot be opened: {error}") from error
        with stream:
            names = set(stream.keys())
            for name in sorted(names):
                if name.endswith((*_PARTS, *_INT8_PARTS)):
                    continue
                yield name, _weight(_reader(stream, names, file), names, name, file)


def _weight(stored: Stored, names: set[str], name: str, file: Path) -> Floats:
    try:
        if name + _STATE in names:
            return nf4_values(stored, name)
        scales = name.removesuffix(".weight") + ".SCB"
        if scales in names:
            return int8_values(stored(name), stored(scales))
    except (ValueError, KeyError, IndexError) as error:
        raise ArtifactError(f"{file}: the parts of {name} do not fit together: {error}") from error
    values = stored(name)
    if values.dtype != np.float32:
        raise ArtifactError(f"{file}: {name} is stored as {values.dtype} without the scales that it needs")
    return values


def nf4_values(stored: Stored, name: str) -> Floats:
    """The weight `name` in its own shape; raises ValueError when a part has another size than the others ask for."""
    state = json.loads(stored(name + _STATE).tobytes())
    shape = tuple(int(size) for size in state["shape"])
    if state["quant_type"] != "nf4" or not np.array_equal(stored(f"{name}.quant_map"), NF4_LEVELS):
        raise ValueError("its levels are not those of NF4")
    packed = stored(name).reshape(-1)
    codes = np.stack((packed >> 4, packed & 15), axis=-1).reshape(-1)
    count = int(np.prod(shape, dtype=np.int64))
    if not count <= codes.size <= count + 1:
        raise ValueError(f"{codes.size} codes for {count} weights")
    absmax = _absmax(stored, name, state)
    per_weight = np.repeat(absmax, int(state["blocksize"]))[:count]
    if per_weight.size != count:
        raise ValueError(f"{absmax.size} blocks of {state['blocksize']} for {count} weights")
    values: Floats = NF4_LEVELS[codes[:count]] * per_weight
    return values.reshape(shape)


def _absmax(stored: Stored, name: str, state: dict[str, Any]) -> Floats:
    """One scale per block; with double quantization the bytes of `.absmax` are looked up and scaled themselves."""
    absmax = stored(f"{name}.absmax")
    if absmax.dtype != np.uint8:
        return absmax.astype(np.float32)
    levels = stored(f"{name}.nested_quant_map")[absmax]
    scales = np.repeat(stored(f"{name}.nested_absmax"), int(state["nested_blocksize"]))[: absmax.size]
    if scales.size != absmax.size:
        raise ValueError(f"{absmax.size} scales of which {scales.size} have a scale of their own")
    return np.asarray(levels * scales + np.float32(state["nested_offset"]), dtype=np.float32)


def int8_values(codes: npt.NDArray[np.int8], scales: Floats) -> Floats:
    """codes [out_features, in_features] times absmax / 127 of their row, [out_features]."""
    if codes.dtype != np.int8 or scales.shape != codes.shape[:1]:
        raise ValueError(f"{codes.dtype} codes {codes.shape} with scales {scales.shape}")
    values: Floats = codes.astype(np.float32) * (scales.astype(np.float32) / np.float32(127))[:, None]
    return values


def _reader(stream: Any, names: set[str], file: Path) -> Stored:
    def stored(name: str) -> npt.NDArray[Any]:
        if name not in names:
            raise ArtifactError(f"{file}: {name} is missing")
        tensor = stream.get_tensor(name)
        array: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return array

    return stored
