"""What survives a kill of the calibration pass: activations before the next layer, and what each finished layer left.

A folder with
    pass.json               fingerprint of everything the result depends on, and the number of layers done
    hidden-NNNN.npy         float32 [streams, windows, n_ctx, hidden_size] before layer NNNN, the next to run
    layer-NNNN.safetensors  what the pass keeps of layer NNNN
Files get their names by a rename when they are whole and pass.json is replaced last, so a kill at any moment costs one
layer, and the activations a resumed pass reads are the very bytes the first one wrote.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.export.safetensors_file import SafetensorsFolder, SafetensorsWriter, TensorPlan

Arrays = Mapping[str, npt.NDArray[Any]]
_DTYPES = {"uint8": "U8", "float16": "F16", "float32": "F32", "bfloat16": "BF16"}


class PassState:
    """Open `directory`, keeping what is there when its fingerprint is the same and emptying it when it is not."""

    def __init__(self, directory: Path, fingerprint: Mapping[str, Any]) -> None:
        self.directory = directory
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self.layers_done = -1
        """-1: not even the embedding."""
        document = self._read()
        if document is None or document["fingerprint"] != self._fingerprint:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        else:
            self.layers_done = int(document["layers_done"])

    def hidden(self) -> npt.NDArray[np.float32]:
        """[streams, windows, n_ctx, hidden_size] before the next layer, memory-mapped."""
        values: npt.NDArray[np.float32] = np.load(self._hidden_path(self.layers_done), mmap_mode="r")
        return values

    def advance(
        self, shape: tuple[int, ...], fill: Callable[[npt.NDArray[np.float32]], None], keep: Arrays
    ) -> None:
        """Finish a layer: `fill` writes the next hidden states of `shape` into a memory map, `keep` is stored as its
        result; -1 to 0 is the embedding, whose result is kept too."""
        number = self.layers_done + 1
        write_arrays(self.layer_path(number - 1), keep)
        part = self.directory / "hidden.part"
        target = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        fill(target)
        target.flush()
        del target
        part.replace(self._hidden_path(number))
        self._write(number)
        self._hidden_path(number - 1).unlink(missing_ok=True)

    def finish(self, keep: Arrays) -> None:
        """After the last layer: keep `keep` (the head) and drop the activations."""
        write_arrays(self.layer_path(self.layers_done), keep)
        self._write(self.layers_done + 1)
        self._hidden_path(self.layers_done - 1).unlink(missing_ok=True)

    def layer_path(self, number: int) -> Path:
        """Layer -1 is the embedding, the one after the last is final norm and head."""
        return self.directory / f"layer-{number + 1:04d}.safetensors"

    def results(self) -> SafetensorsFolder:
        return SafetensorsFolder(self.directory)

    def _hidden_path(self, number: int) -> Path:
        return self.directory / f"hidden-{number:04d}.npy"

    def _read(self) -> Any:
        try:
            return json.loads((self.directory / "pass.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, layers_done: int) -> None:
        part = self.directory / "pass.json.part"
        part.write_text(
            json.dumps({"fingerprint": self._fingerprint, "layers_done": layers_done}), encoding="utf-8"
        )
        part.replace(self.directory / "pass.json")
        self.layers_done = layers_done


def write_arrays(path: Path, arrays: Arrays) -> None:
    """A safetensors file; the writer gives it its name when it is whole."""
    plan = [TensorPlan(name, _DTYPES[str(values.dtype)], values.shape) for name, values in arrays.items()]
    with SafetensorsWriter(path, plan) as writer:
        for name, values in arrays.items():
            writer.write(name, values)
