"""Building beside the output: one export at a time, stages reused by key, one rename to publish."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from edgeport.errors import UsageError
from edgeport.export.staging import Staging


def stage(staging: Staging, key: str, built: list[str], *, text: str = "whole") -> bool:
    def build(folder: Path) -> None:
        built.append(text)
        (folder / "file").write_text(text)

    return staging.stage(staging.final / "gguf", {"key": key}, build)


def test_the_output_appears_by_publishing_and_nothing_else_stays(tmp_path: Path) -> None:
    with Staging(tmp_path / "out", resume=True) as staging:
        assert not stage(staging, "a", [])
        assert not (tmp_path / "out").exists()
        staging.publish()
    assert (tmp_path / "out" / "gguf" / "file").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_whole_stage_is_reused_under_the_same_key_only(tmp_path: Path) -> None:
    built: list[str] = []
    for key, reused in (("a", False), ("a", True), ("b", False), ("b", True), ("a", False)):
        with Staging(tmp_path / "out", resume=True) as staging:
            assert stage(staging, key, built) is reused
    assert len(built) == 3


def test_a_stage_that_failed_is_built_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"), Staging(tmp_path / "out", resume=True) as staging:
        staging.stage(staging.final / "gguf", {"key": "a"}, fail)
    assert not (tmp_path / "out").exists()
    with Staging(tmp_path / "out", resume=True) as staging:
        assert not (staging.final / "gguf").exists()
        assert not stage(staging, "a", [])
        assert [path.name for path in (staging.final / "gguf").iterdir()] == ["file"]


def test_without_resume_everything_starts_anew(tmp_path: Path) -> None:
    with Staging(tmp_path / "out", resume=True) as staging:
        stage(staging, "a", [])
    with Staging(tmp_path / "out", resume=False) as staging:
        assert not (staging.final / "gguf").exists()
        assert not stage(staging, "a", [])


def test_a_second_export_of_the_same_output_is_refused(tmp_path: Path) -> None:
    with (
        Staging(tmp_path / "out", resume=True),
        pytest.raises(UsageError, match="another export is writing") as caught,
    ):
        Staging(tmp_path / "out", resume=True).__enter__()
    assert caught.value.hint is not None and "-o" in caught.value.hint
    with Staging(tmp_path / "out", resume=True), Staging(tmp_path / "other", resume=True):
        pass


def test_the_lock_is_the_kernels_and_dies_with_its_process(tmp_path: Path) -> None:
    """A killed export leaves the lock file; only a living process holds the lock."""
    staging = Staging(tmp_path / "out", resume=True)
    staging.directory.mkdir()
    lock = staging.directory / "lock"
    lock.touch()
    with staging:
        descriptor = os.open(lock, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_an_older_output_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with Staging(tmp_path / "out", resume=True) as staging:
        stage(staging, "a", [])
        assert (tmp_path / "out" / "old").exists(), "until publishing, the older artifact is served"
        staging.publish()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gguf"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_the_two_renames_does_not_lose_the_older_output(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with Staging(tmp_path / "out", resume=True) as staging:
        (tmp_path / "out").rename(staging.directory / "replaced")  # and here it was killed
    with Staging(tmp_path / "out", resume=False):
        assert (tmp_path / "out" / "old").read_text() == "old"


def test_rejected_files_are_kept_under_another_name(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with Staging(tmp_path / "out", resume=True) as staging:
            stage(staging, "a", [], text=text)
            assert staging.reject() == tmp_path / "out.rejected"
        assert not (tmp_path / "out").exists()
        assert (tmp_path / "out.rejected" / "gguf" / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["out.rejected"]


def test_containers_of_an_earlier_export_with_other_formats_are_dropped(tmp_path: Path) -> None:
    with Staging(tmp_path / "out", resume=True) as staging:
        stage(staging, "a", [])
        (staging.final / "golden.json").write_text("{}")
        staging.keep_only(("onnx",))
        assert list(staging.final.iterdir()) == []


def test_scratch_survives_a_kill_and_not_another_key(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Staging(out, resume=True) as staging:
        folder = staging.scratch("solve", {"solver": "gptq"})
        (folder / "layer-0").touch()
    with Staging(out, resume=True) as staging:
        assert (staging.scratch("solve", {"solver": "gptq"}) / "layer-0").exists()
        assert not any(staging.scratch("solve", {"solver": "awq"}).iterdir())
        assert not any(staging.scratch("solve", {"solver": "gptq"}).iterdir()), "the other key has emptied it"
        (folder / "layer-0").touch()
    with Staging(out, resume=False) as staging:
        assert not any(staging.scratch("solve", {"solver": "gptq"}).iterdir())
