"""Load `module:attribute` strings on first use, and name the pip extra when a package is missing."""

from __future__ import annotations

import importlib
from typing import Any

from edgeport.errors import MissingExtra


def load(target: str, *, extra: str | None = None) -> Any:
    """Return the attribute named by `package.module:attribute`.

    Raises MissingExtra (with the pip line) when a third-party package is absent; an ImportError inside edgeport's
    own modules is a bug and propagates unchanged.
    """
    module_name, _, attribute = target.partition(":")
    with missing_extra(extra, purpose=target):
        module = importlib.import_module(module_name)
    return getattr(module, attribute)


class missing_extra:  # reads as a statement: `with missing_extra("onnx"):`
    """Turn a ModuleNotFoundError of a third-party package into MissingExtra naming the extra that brings it."""

    def __init__(self, extra: str | None, *, purpose: str = "this command") -> None:
        self.extra = extra
        self.purpose = purpose

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, ModuleNotFoundError) or self.extra is None:
            return
        if (error.name or "").split(".")[0] == "edgeport":
            return
        raise MissingExtra(
            f"{self.purpose} needs the package '{error.name}', which is not installed",
            hint=f"pip install 'edgeport[{self.extra}]'",
        ) from error
