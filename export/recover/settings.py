"""Everything that decides the result of a distillation, as plain values: from the command line or a table of a recipe."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeport.errors import UsageError
from edgeport.export.recover.losses import LossSettings
from edgeport.export.recover.student import StudentSettings
from edgeport.export.recover.students import STUDENTS

PRECISIONS = ("auto", "f32", "bf16")
DEFAULT_MINUTES = 20.0
_RANGES: Mapping[str, tuple[type, float, float]] = {
    "alpha": (float, 0, 1),
    "temperature": (float, 0.1, 100),
    "logit_weight": (float, 0, math.inf),
    "hidden_weight": (float, 0, math.inf),
    "steps": (int, 1, 10**9),
    "minutes": (float, 0.01, 10**6),
    "learning_rate": (float, 1e-9, 1),
    "final_learning_rate_share": (float, 0, 1),
    "warmup_share": (float, 0, 1),
    "weight_decay": (float, 0, 1),
    "gradient_clip": (float, 1e-6, math.inf),
    "batch_tokens": (int, 2, 10**8),
    "micro_tokens": (int, 2, 10**8),
    "cache_teacher": (int, 0, 10**5),
    "measure_steps": (int, 1, 10**9),
    "patience": (int, 1, 10**6),
    "seed": (int, 0, 2**31),
    "text_tokens": (int, 2, 10**11),
    "n_ctx": (int, 2, 10**7),
    "held_tokens": (int, 2, 10**8),
}
"""(type, least, most) of what is a number; whole numbers are accepted where a float is wanted."""


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """Defaults are what did best on the pruned reference model (docs/distillation.md).

    steps or minutes: the length of the run; with neither DEFAULT_MINUTES. kind, options: which Student, and what it alone
    knows. batch_tokens: per step, in pieces of micro_tokens. cache_teacher: 0, or how many of the teacher's likeliest tokens are
    kept on disk for each position. Every measure_steps the loss on held_tokens of the text, which are not trained on, is
    measured; after `patience` measurements without a better one the run ends, and the best state is kept in any case.
    text: sources as `corpus.load_training` knows them, at most text_tokens from each, in windows of n_ctx tokens.
    """

    kind: str = "full"
    options: Mapping[str, Any] = field(default_factory=dict)
    alpha: float = 0.7
    temperature: float = 1.0
    logit_weight: float = 0.0
    hidden_weight: float = 0.0
    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 1e-4
    final_learning_rate_share: float = 0.05
    warmup_share: float = 0.05
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    batch_tokens: int = 4096
    micro_tokens: int = 2048
    precision: str = "auto"
    gradient_checkpointing: bool = False
    cache_teacher: int = 0
    measure_steps: int = 50
    patience: int = 10
    seed: int = 0
    text: tuple[str, ...] = ("auto", "python")
    text_tokens: int = 1 << 23
    n_ctx: int = 512
    held_tokens: int = 1 << 14

    @property
    def minutes_wanted(self) -> float | None:
        """None when a number of steps decides."""
        if self.steps is not None:
            return None
        return self.minutes if self.minutes is not None else DEFAULT_MINUTES

    def loss(self) -> LossSettings:
        return LossSettings(self.alpha, self.temperature, self.logit_weight, self.hidden_weight)

    def student(self) -> StudentSettings:
        return StudentSettings(
            self.learning_rate, self.weight_decay, self.gradient_checkpointing, self.seed, self.options
        )

    def to_document(self) -> dict[str, Any]:
        """Plain values without what is None; `parse_distill` reads them back."""
        document = {name: value for name, value in asdict(self).items() if value is not None}
        return document | {"text": list(self.text), "options": dict(self.options)}


def parse_distill(document: Mapping[str, Any], *, problems: list[str]) -> DistillSettings:
    """Settings from plain values; every error is appended to `problems`, and then the defaults come back."""
    allowed = DistillSettings.__dataclass_fields__
    count = len(problems)
    for key in document:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            problems.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    for name in _RANGES:
        if document.get(name) is not None:
            _check_number(name, document[name], problems)
    _check_choices(document, problems)
    if len(problems) > count:
        return DistillSettings()
    values = {key: value for key, value in document.items() if key in allowed and value is not None}
    if "text" in values:
        values["text"] = (values["text"],) if isinstance(values["text"], str) else tuple(values["text"])
    settings = DistillSettings(**values)
    _check_together(settings, problems)
    return settings if len(problems) == count else DistillSettings()


def settings_from(document: Mapping[str, Any]) -> DistillSettings:
    """The same for one caller. Raises UsageError with every problem."""
    problems: list[str] = []
    settings = parse_distill(document, problems=problems)
    if problems:
        raise UsageError(
            "distillation: " + "; ".join(problems), hint="docs/distillation.md has every setting"
        )
    return settings


def _check_number(name: str, value: Any, problems: list[str]) -> None:
    kind, least, most = _RANGES[name]
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        problems.append(f"{name} is {value!r}, expected {'a whole number' if kind is int else 'a number'}")
    elif not least <= value <= most:
        limit = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
        problems.append(f"{name} is {value:g}, allowed is {limit}")


def _check_choices(document: Mapping[str, Any], problems: list[str]) -> None:
    if document.get("kind", "full") not in STUDENTS:
        problems.append(f"unknown kind {document['kind']!r}, kinds are {', '.join(STUDENTS)}")
    if document.get("precision", "auto") not in PRECISIONS:
        problems.append(f"unknown precision {document['precision']!r}, allowed are {', '.join(PRECISIONS)}")
    if not isinstance(document.get("gradient_checkpointing", False), bool):
        problems.append(
            f"gradient_checkpointing is {document['gradient_checkpointing']!r}, expected true or false"
        )
    if not isinstance(document.get("options", {}), Mapping):
        problems.append(f"options is {document['options']!r}, expected a table")
    text = document.get("text", ["auto"])
    names = [text] if isinstance(text, str) else text
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(item, str) for item in names):
        problems.append(f"text is {text!r}, expected one or more names of texts")


def _check_together(settings: DistillSettings, problems: list[str]) -> None:
    if settings.steps is not None and settings.minutes is not None:
        problems.append("steps and minutes are both given, a run has one length")
    if settings.n_ctx > settings.micro_tokens:
        problems.append(
            f"n_ctx is {settings.n_ctx}, more than micro_tokens {settings.micro_tokens}: a window is never cut"
        )
    if settings.micro_tokens > settings.batch_tokens:
        problems.append(
            f"micro_tokens {settings.micro_tokens} is more than batch_tokens {settings.batch_tokens}"
        )
    if settings.cache_teacher and (settings.logit_weight or settings.hidden_weight):
        problems.append(
            "cache_teacher keeps a distribution only, without logits and hidden states: "
            "logit_weight and hidden_weight have to be 0"
        )
    if settings.cache_teacher and not settings.alpha:
        problems.append("cache_teacher with alpha 0 would keep what nothing reads")
