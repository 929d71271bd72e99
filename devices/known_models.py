"""Configurations of well-known models, so that a plan needs neither weights nor a network: devices/models/*.json.

Each file has the hub id, the part of the published config.json that decides tensors and caches, and the exact number of
parameters with its source, which the tests compare with what the configuration gives (a tied head counted once).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgeport.devices.config_shape import shape_from_config
from edgeport.devices.profile_keys import nearest
from edgeport.devices.shape import ModelShape
from edgeport.errors import UsageError

MODELS = Path(__file__).parent / "models"


def known_names() -> tuple[str, ...]:
    """Every name `load_known` accepts, sorted."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.json")))


def load_known(name: str) -> ModelShape:
    """The shape of a well-known model. Raises UsageError for a name that is not there, with the nearest and all."""
    if name not in known_names():
        raise UsageError(
            f"no model called '{name}'{nearest(name, known_names())}",
            hint=f"known models: {', '.join(known_names())}",
        )
    return shape_from_config(read_known(name)["config"], name=name)


def known_by_hub_id(hub_id: str) -> str | None:
    """The name of the model published as `owner/name`, None when it is not among the known ones."""
    wanted = hub_id.lower()
    return next((name for name in known_names() if read_known(name)["hub_id"].lower() == wanted), None)


@cache
def read_known(name: str) -> Mapping[str, Any]:
    """The whole file: hub_id, source, parameters, parameters_source, note, config."""
    document: Mapping[str, Any] = json.loads((MODELS / f"{name}.json").read_text(encoding="utf-8"))
    return document
