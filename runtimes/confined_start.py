"""Give this process its limits, then become the engine's process.

    python -m edgeport.runtimes.confined_start PARENT_PID CPUS GROUP COMMAND...

CPUS is `0,2` or `-`, GROUP the folder of a control group (version 2) or `-`. The limits are set before the engine's process
begins, so that nothing it allocates is left out, and nothing runs between fork and exec in a parent that has threads. The
process dies with its parent: a benchmark that was killed leaves no engine behind, and its control group can be removed.
Spec: sched_setaffinity(2), prctl(2) PR_SET_PDEATHSIG, https://docs.kernel.org/admin-guide/cgroup-v2.html (cgroup.procs).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

NONE = "-"
_PR_SET_PDEATHSIG = 1


def start(words: Sequence[str]) -> None:
    parent, cpus, group, *command = words
    if cpus != NONE:
        os.sched_setaffinity(0, {int(number) for number in cpus.split(",")})
    if group != NONE:
        Path(group, "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the line above
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    start(sys.argv[1:])
