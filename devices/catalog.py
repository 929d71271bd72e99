"""Find device profiles by name: the shipped ones, the user's own folder, and `host`, which is probed.

The user's folder is `$EDGEPORT_DEVICES`, or `edgeport/devices` in the XDG configuration folder. A file there wins
over a shipped one of the same name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from edgeport.devices.profile import DeviceProfile
from edgeport.devices.profile_file import dump_profile, read_profile
from edgeport.devices.profile_keys import nearest
from edgeport.errors import UsageError

SHIPPED = Path(__file__).parent / "data"
HOST = "host"
RESERVED = (HOST, "detect")


def user_directory() -> Path:
    """Where the user's own profiles live; it need not exist."""
    if chosen := os.environ.get("EDGEPORT_DEVICES"):
        return Path(chosen).expanduser()
    configuration = os.environ.get("XDG_CONFIG_HOME")
    base = Path(configuration) if configuration else Path.home() / ".config"
    return base / "edgeport" / "devices"


def names() -> tuple[str, ...]:
    """Every name `load_profile` accepts: the files' stems, sorted, then `host`."""
    return (*sorted(_files()), HOST)


def load_profile(name: str) -> DeviceProfile:
    """The profile called `name`; `host` probes this machine, its memory bandwidth too (about a second).

    Raises UsageError for a name nobody has, with the nearest and all names, and for a broken file.
    """
    if name == HOST:
        from edgeport.devices.probe import probe_host

        return probe_host()
    path = _files().get(name)
    if path is None:
        raise UsageError(
            f"no device called '{name}'{nearest(name, names())}",
            hint=f"devices: {', '.join(names())}; your own go to {user_directory()}/NAME.toml",
        )
    return read_profile(path)


def profile_path(name: str) -> Path | None:
    """The file a name is read from, None for `host` and for unknown names."""
    return _files().get(name)


def check_new_name(name: str, *, overwrite: bool = False) -> Path:
    """The file a profile called `name` would be saved as. Raises UsageError for a bad or taken name."""
    if name in RESERVED or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        reserved = " and ".join(RESERVED)
        raise UsageError(
            f"'{name}' cannot be a device name", hint=f"use a-z, 0-9, '-', '.' and '_'; {reserved} are taken"
        )
    path = user_directory() / f"{name}.toml"
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} exists already", hint="save under another name, or pass --force to replace it"
        )
    return path


def save_profile(profile: DeviceProfile, name: str, *, comment: str = "", overwrite: bool = False) -> Path:
    """Write a profile to the user's folder under `name`. Raises UsageError for a bad or taken name."""
    path = check_new_name(name, overwrite=overwrite)
    header = "".join(f"# {line}\n" for line in comment.splitlines())
    temporary = path.with_suffix(".toml.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(header + dump_profile(profile), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error}", hint="EDGEPORT_DEVICES names another folder"
        ) from error
    return path


def _files() -> Mapping[str, Path]:
    found = {}
    for directory in (SHIPPED, user_directory()):
        if directory.is_dir():
            found.update({path.stem: path for path in sorted(directory.glob("*.toml"))})
    return {name: path for name, path in found.items() if name not in RESERVED}
