"""The fields of a config.json, each checked when it is read, so that one refusal names every problem of the file.

A bad or missing field gives a harmless number and a problem; `check` raises them together before any tensor is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeport.errors import UsageError

LARGEST_SIZE = 1 << 24
"""No published model has a width, vocabulary or context near it; larger numbers are damage or an attack."""
LARGEST_COUNT = 1 << 12
"""Of layers, heads and experts."""


class ConfigFields:
    """One config.json. `name` is the model's, `family` its model_type; both only for messages and the result."""

    __slots__ = ("_document", "_problems", "family", "name")

    def __init__(self, document: Mapping[str, Any], *, name: str, family: str) -> None:
        self._document = document
        self._problems: list[str] = []
        self.name = name
        self.family = family

    def size(self, *keys: str, default: int | None = None, at_most: int = LARGEST_SIZE) -> int:
        """The first of `keys` that is there, a whole number from 1 to `at_most`; without any, `default`."""
        found = self.optional_size(*keys, at_most=at_most)
        if found is not None:
            return found
        if default is None and not any(self._document.get(key) is not None for key in keys):
            self.problem(f"{' or '.join(keys)} is missing")
        return 1 if default is None else default

    def count(self, *keys: str, default: int | None = None) -> int:
        """A number of layers, heads or experts."""
        return self.size(*keys, default=default, at_most=LARGEST_COUNT)

    def optional_size(self, *keys: str, at_most: int = LARGEST_SIZE) -> int | None:
        """As `size`, and None where no key is there or it is null."""
        for key in keys:
            value = self._document.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= at_most:
                self.problem(f"{key} is {value!r:.40}, it must be a whole number from 1 to {at_most}")
                return None
            return value
        return None

    def optional_count(self, key: str) -> int:
        """A count that may be absent, null or 0."""
        value = self._document.get(key) or 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_COUNT:
            self.problem(f"{key} is {value!r:.40}, it must be a whole number from 0 to {LARGEST_COUNT}")
            return 0
        return value

    def number(self, key: str, *, default: float) -> float:
        value = self._document.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < LARGEST_SIZE:
            self.problem(f"{key} is {value!r:.40}, it must be a number greater than zero")
            return default
        return float(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        value = self._document.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(f"{key} is {value!r:.40}, it must be true or false")
            return default
        return value

    def items(self, key: str) -> Sequence[Any] | None:
        """A list, None where there is none."""
        value = self._document.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > LARGEST_COUNT:
            self.problem(f"{key} must be a list of at most {LARGEST_COUNT} entries")
            return None
        return value

    def value(self, key: str) -> Any:
        """Whatever is there, unchecked."""
        return self._document.get(key)

    def problem(self, text: str) -> None:
        self._problems.append(text)

    def check(self) -> None:
        """Raises UsageError with every problem found so far."""
        if self._problems:
            told = "; ".join(dict.fromkeys(self._problems))
            raise UsageError(
                f"the configuration of '{self.name}' ({self.family}) cannot be read: {told}",
                hint="compare it with the config.json the model was published with",
            )
