"""What survives a kill of a training run: masters, optimizer moments, the run's place, and the best state so far.

A folder with
    run.json                    fingerprint, the run's place, and which files belong to it
    state-NNNNNNNN.safetensors  the student's arrays and the optimizer's, after step N
    best-NNNNNNNN.safetensors   the student's arrays at the best measurement
Array files get their names when they are whole and run.json is replaced after them; only then are older ones removed. A
kill at any moment leaves a run.json whose files are all there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.export.calibrate.state import write_arrays
from edgeport.export.recover.schedule import RunState
from edgeport.export.recover.student import Arrays, Student
from edgeport.export.safetensors_file import SafetensorsFile

if TYPE_CHECKING:
    import torch

_STUDENT, _OPTIMIZER = "student:", "optimizer:"


class TrainingState:
    """Open `directory`, keeping what is there when its fingerprint is the same and emptying it when it is not."""

    def __init__(self, directory: Path, fingerprint: Mapping[str, Any]) -> None:
        self.directory = directory
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._document: dict[str, Any] | None = self._read()
        if self._document is None:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)

    def restore(self, student: Student, optimizer: torch.optim.Optimizer) -> RunState:
        """Put back the last saved state; a fresh RunState when there is none."""
        if self._document is None:
            return RunState()
        run = RunState(**self._document["run"])
        saved = SafetensorsFile(self._path("state", run.step))
        names = [name for name in saved.entries if name.startswith(_STUDENT)]
        student.restore({name.removeprefix(_STUDENT): saved.tensor(name) for name in names})
        _restore_optimizer(optimizer, saved)
        return run

    def save(self, run: RunState, student: Student, optimizer: torch.optim.Optimizer) -> None:
        arrays = {_STUDENT + name: values for name, values in student.arrays().items()}
        write_arrays(self._path("state", run.step), arrays | _optimizer_arrays(optimizer))
        part = self.directory / "run.json.part"
        document = {"fingerprint": self._fingerprint, "run": run.to_document()}
        part.write_text(json.dumps(document), encoding="utf-8")
        part.replace(self.directory / "run.json")
        for kind, step in (("state", run.step), ("best", run.best_step)):
            for path in self.directory.glob(f"{kind}-*.safetensors"):
                if path != self._path(kind, step):
                    path.unlink()

    def keep_best(self, step: int, student: Student) -> None:
        """Written at once; an older best is removed when run.json names the new one."""
        write_arrays(self._path("best", step), student.arrays())

    def restore_best(self, step: int, student: Student) -> None:
        saved = SafetensorsFile(self._path("best", step))
        student.restore({name: saved.tensor(name) for name in saved.entries})

    def _path(self, kind: str, step: int) -> Path:
        return self.directory / f"{kind}-{step:08d}.safetensors"

    def _read(self) -> dict[str, Any] | None:
        try:
            document = json.loads((self.directory / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(document, dict) and document.get("fingerprint") == self._fingerprint
        return document if same else None


def _optimizer_arrays(optimizer: torch.optim.Optimizer) -> Arrays:
    """Every tensor an optimizer keeps, by group, place in it, and torch's name for it."""
    arrays: Arrays = {}
    for group_number, group in enumerate(optimizer.param_groups):
        for number, parameter in enumerate(group["params"]):
            for key, value in optimizer.state.get(parameter, {}).items():
                arrays[f"{_OPTIMIZER}{group_number}:{number}:{key}"] = np.atleast_1d(value.detach().numpy())
    return arrays


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: SafetensorsFile) -> None:
    import torch

    for name in saved.entries:
        if not name.startswith(_OPTIMIZER):
            continue
        group_number, number, key = name.removeprefix(_OPTIMIZER).split(":")
        parameter = optimizer.param_groups[int(group_number)]["params"][int(number)]
        values = torch.from_numpy(np.array(saved.tensor(name)))
        optimizer.state[parameter][key] = values[0] if key == "step" else values
