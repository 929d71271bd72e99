"""Every error edgeport raises on purpose.

EdgeportError            message (what, the offending value, what is allowed) + hint (the cure) + exit code
├── UsageError           2  bad argument, bad input file
│   ├── RecipeError      2  a recipe file or name that cannot be used
│   └── UnsupportedModel 2  a family, shape or tokenizer that cannot be exported
├── MissingExtra         3  an optional package is not installed
├── ArtifactError        1  a container is damaged, incomplete or disagrees with its manifest
├── RuntimeFailure       1  an engine refused a file or died
├── GateFailure          1  a quality or verification gate said no
└── DoesNotFit           1  the model does not fit the device (the numbers are in the message)
"""

from __future__ import annotations


class EdgeportError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EdgeportError):
    exit_code = 2


class RecipeError(UsageError):
    pass


class UnsupportedModel(UsageError):
    pass


class MissingExtra(EdgeportError):
    exit_code = 3


class ArtifactError(EdgeportError):
    pass


class RuntimeFailure(EdgeportError):
    pass


class GateFailure(EdgeportError):
    pass


class DoesNotFit(EdgeportError):
    pass
