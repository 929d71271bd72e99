"""Model folders and checkpoints for the tests of the exporter."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

TWINS = Path(__file__).resolve().parents[3] / "models" / "twins.py"
Twin = Callable[[str], Path]
Edited = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """tiny_twin("llama-3.2-1b") -> a small model folder of that family; treat it as read-only."""
    spec = importlib.util.spec_from_file_location("edgeport_twins", TWINS)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "write_twin"):
        spec.loader.exec_module(module)
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            made[name] = module.write_twin(name, tmp_path_factory.mktemp("twins") / name, tiny=True)
        return made[name]

    return write


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    """edited(model, config={...}, tensors=function) -> a copy with keys of config.json replaced and tensors changed."""

    def edit(
        model: Path,
        *,
        config: Mapping[str, Any] | None = None,
        tensors: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        copy = tmp_path / "edited"
        shutil.copytree(model, copy)
        if config is not None:
            document = json.loads((copy / "config.json").read_text()) | dict(config)
            document = {key: value for key, value in document.items() if value is not ...}
            (copy / "config.json").write_text(json.dumps(document))
        if tensors is not None:
            from safetensors.torch import load_file, save_file

            state = load_file(copy / "model.safetensors")
            tensors(state)
            save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
        return copy

    return edit
