"""Lazy names: a missing third-party package names the extra, a bug of ours is not hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeport.errors import MissingExtra
from edgeport.lazy import load


def module(directory: Path, name: str, text: str) -> str:
    (directory / f"{name}.py").write_text(text)
    return name


def test_load_returns_the_attribute() -> None:
    assert load("edgeport.units:format_bytes")(1024) == "1 KiB"


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = module(tmp_path, "edgeport_lazy_probe", "import package_that_is_not_there.inner\n")
    with pytest.raises(MissingExtra, match="'package_that_is_not_there'") as caught:
        load(f"{name}:x", extra="onnx")
    assert caught.value.hint == "pip install 'edgeport[onnx]'"
    assert caught.value.exit_code == 3


def test_a_missing_module_of_ours_is_a_bug_and_propagates() -> None:
    with pytest.raises(ModuleNotFoundError):
        load("edgeport.not_there:x", extra="onnx")


def test_another_error_while_importing_propagates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = module(tmp_path, "edgeport_lazy_bug", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load(f"{name}:x", extra="onnx")
