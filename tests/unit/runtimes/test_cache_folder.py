"""The cache folder: where it is, and that nothing in it can stop the program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeport.runtimes.cache_folder import cache_folder, read_cached, write_cached


def test_the_variable_wins_and_the_system_has_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("EDGEPORT_CACHE", "")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edgeport"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification: ignore what is not absolute
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "edgeport"


def test_what_is_written_is_read_and_damage_is_emptiness(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path))
    assert read_cached("loads/known.json") == {}
    assert write_cached("loads/known.json", {"a": [1, 2]})
    assert read_cached("loads/known.json") == {"a": [1, 2]}
    assert os.listdir(tmp_path / "loads") == ["known.json"], "no temporary file stays"
    for damage in ('{"a": [1', "[]", ""):
        (tmp_path / "loads" / "known.json").write_text(damage)
        assert read_cached("loads/known.json") == {}


def test_a_folder_that_cannot_be_made_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path / "file" / "below"))
    assert not write_cached("x.json", {})
    assert read_cached("x.json") == {}
