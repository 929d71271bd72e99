"""`edgeport bench --refine NAME`: a saved profile's kernel rates corrected by what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.errors import UsageError

if TYPE_CHECKING:
    from edgeport.devices.profile import DeviceProfile
    from edgeport.runtimes.bench.run import BenchReport


@dataclass(frozen=True, slots=True)
class RefinedProfile:
    """path: None when nothing counted and the file is as it was. accepted, refused: one line for each container."""

    name: str
    path: str | None
    accepted: tuple[str, ...]
    refused: tuple[str, ...]


def refinable(name: str) -> DeviceProfile:
    """The user's own profile of that name. Raises UsageError for `host`, a shipped and an unknown one."""
    from edgeport.devices.catalog import HOST, load_profile, profile_path, user_directory

    path = profile_path(name)
    if name == HOST or (path is not None and path.parent != user_directory()):
        raise UsageError(
            f"'{name}' is no saved profile of yours, and only such a one can be refined",
            hint="`edgeport devices detect --engines --save NAME` saves one of this machine",
        )
    return load_profile(name)


def refine_saved(profile: DeviceProfile, directory: Path, report: BenchReport) -> RefinedProfile:
    """Correct the rates and write the file again, when anything counted."""
    from edgeport.devices.catalog import save_profile
    from edgeport.devices.refine import refine
    from edgeport.manifest import read_manifest
    from edgeport.runtimes.bench.observations import observations

    found, without = observations(directory, read_manifest(directory), report)
    outcome = refine(profile, found)
    path = None
    if outcome.accepted:
        comment = "Refined by `edgeport bench --refine`; `source` says which run came last."
        path = str(save_profile(outcome.profile, profile.name, comment=comment, overwrite=True))
    return RefinedProfile(profile.name, path, outcome.accepted, (*without, *outcome.refused))


def refined_lines(refined: RefinedProfile) -> list[str]:
    lines = [f"refined {refined.name}: {line}" for line in refined.accepted]
    lines += [f"not used for {refined.name}: {line}" for line in refined.refused]
    return [*lines, f"saved: {refined.path}"] if refined.path else lines
