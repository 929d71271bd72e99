"""Ours as a user gets it: `edgeport export` in a process of its own, verified, without the gate, which would climb past it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def export(model: str, options: Mapping[str, str], out: str) -> str:
    """One artifact in `out`/artifact, with a container per format in `options`; returns that folder.

    Raises RuntimeError with what the exporter said.
    """
    target = Path(out) / "artifact"
    command = [
        sys.executable,
        "-m",
        "edgeport",
        "export",
        model,
        "--no-gate",
        "--quiet",
        "--out",
        str(target),
    ]
    command += [
        "--device",
        "workstation-gpu",
    ]  # nothing is planned for a device here: one that everything fits
    for name, value in options.items():
        command += [f"--{name}", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"edgeport export ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return str(target)
