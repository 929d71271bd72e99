"""Write a recipe as the TOML file that `load_recipe` reads: what a search found can be exported again by anyone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeport.export.recipe import Recipe

_TABLES = ("overrides", "prune", "recover")


def write_recipe(recipe: Recipe, path: Path) -> None:
    """`path` appears whole or not at all."""
    document = recipe.to_document()
    lines = [f"{key} = {_value(value)}" for key, value in document.items() if key not in _TABLES]
    for name in _TABLES:
        table: Mapping[str, Any] = document.get(name) or {}
        if table:
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(path)


def _key(name: str) -> str:
    """Patterns over tensor names hold points and stars, which a bare key must not."""
    return name if name.replace("_", "").isalnum() else json.dumps(name)


def _value(value: Any) -> str:
    """TOML's basic strings, numbers, booleans and arrays are written as JSON's; tables in line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
