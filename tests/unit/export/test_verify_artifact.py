"""What `verify` says of a manifest that promises nothing: a verification of nothing is not a success."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.errors import ArtifactError, GateFailure
from edgeport.export.checkpoint import weights_id
from edgeport.export.verify.artifact import Check, Verification, verify_artifact
from edgeport.export.verify.tokens import check_tokens
from edgeport.manifest import (
    ContainerEntry,
    DraftEntry,
    Manifest,
    ModelFacts,
    SourceFacts,
    file_entry,
    write_manifest,
)
from edgeport.progress import NO_PROGRESS

DIGESTS = {"a": "11"}
FACTS = ModelFacts("llama", 1000, 1, 8, 16, 1, 1, 8, 32, 64, True, 16.0, 32)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A manifest over one file that is no GGUF, which every reader refuses before an engine sees it."""
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "m.gguf").write_bytes(b"not a container")
    (tmp_path / "weights.json").write_text(json.dumps(DIGESTS))
    entry = file_entry(tmp_path / "gguf" / "m.gguf", tmp_path)
    container = ContainerEntry("gguf", entry.path, (entry,), entry.size_bytes, weights_id(DIGESTS))
    source = SourceFacts("m", "0" * 64, 15, "bf16")
    manifest = Manifest("m", "2026-01-01", source, {}, "edge", FACTS, weights_id(DIGESTS), (container,))
    write_manifest(manifest, tmp_path)
    return tmp_path


def change(artifact: Path, **changes: object) -> None:
    from edgeport.manifest import read_manifest

    write_manifest(replace(read_manifest(artifact), **changes), artifact)  # type: ignore[arg-type]


def test_no_containers_is_not_a_success(artifact: Path) -> None:
    change(artifact, containers=())
    with pytest.raises(ArtifactError, match="lists no container"):
        verify_artifact(artifact, progress=NO_PROGRESS)


def test_nothing_checked_has_not_passed() -> None:
    assert not Verification(()).passed and not Verification(()).container_passed("gguf")


def test_a_container_that_is_not_there(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match="has no container 'onnx'"):
        verify_artifact(artifact, formats=["onnx"], progress=NO_PROGRESS)


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        verify_artifact(tmp_path, progress=NO_PROGRESS)


def test_every_part_that_cannot_be_read_is_a_failed_check(artifact: Path) -> None:
    """No golden.json, a file that is no GGUF: five lines for the container, and no exception."""
    verification = verify_artifact(artifact, progress=NO_PROGRESS)
    verdicts = {(check.container, check.name): check for check in verification.checks}
    assert not verification.passed and not verification.container_passed("gguf")
    assert verdicts["gguf", "files"].passed
    assert "golden.json cannot be read" in verdicts["artifact", "digests"].detail
    assert "is not a GGUF file" in verdicts["gguf", "weights"].detail
    assert not any(verdicts["gguf", name].passed for name in ("weights", "tokens", "logits", "shipped"))


def test_files_that_the_manifest_does_not_cover(artifact: Path) -> None:
    from edgeport.manifest import read_manifest

    (entry,) = read_manifest(artifact).containers
    change(artifact, containers=(replace(entry, files=()),))
    checks = verify_artifact(artifact, progress=NO_PROGRESS).checks
    (files,) = [check for check in checks if check.name == "files"]
    assert not files.passed and "m.gguf is not among the files" in files.detail


def test_no_texts_prove_no_tokenizer(artifact: Path) -> None:
    with pytest.raises(GateFailure, match="holds no texts"):
        check_tokens("gguf", artifact / "gguf" / "m.gguf", ())


@pytest.fixture
def with_draft(artifact: Path, tmp_path: Path) -> Path:
    """The same again as its own draft."""
    whole = tmp_path / "with-draft"
    shutil.copytree(artifact, whole / "draft", ignore=shutil.ignore_patterns("with-draft"))
    for path in ("gguf", "weights.json", "manifest.json"):
        source = artifact / path
        shutil.copytree(source, whole / path) if source.is_dir() else shutil.copyfile(source, whole / path)
    change(whole, draft=DraftEntry("draft", weights_id(DIGESTS)))
    return whole


def checks_of(artifact: Path, **options: list[str]) -> dict[tuple[str, str], Check]:
    found = verify_artifact(artifact, progress=NO_PROGRESS, **options).checks  # type: ignore[arg-type]
    return {(check.container, check.name): check for check in found}


def test_a_draft_is_checked_as_an_artifact_of_its_own(with_draft: Path) -> None:
    found = checks_of(with_draft)
    assert found["draft", "identity"].passed and found["draft/gguf", "files"].passed
    assert "is not a GGUF file" in found["draft/gguf", "weights"].detail
    (with_draft / "draft" / "gguf" / "m.gguf").write_bytes(b"something else!")
    found = checks_of(with_draft, formats=["gguf"])
    assert found["gguf", "files"].passed and "has sha256" in found["draft/gguf", "files"].detail


WRONG_DRAFTS: dict[str, tuple[dict[str, object], str]] = {
    "another model": ({"weights_id": "12" * 32}, "the draft has weights_id 1212"),
    "another vocabulary": (
        {"model": replace(FACTS, vocab_size=33)},
        "33 tokens in its vocabulary, the model 32",
    ),
    "a draft of a draft": ({"draft": DraftEntry("draft", "id")}, "a draft of its own"),
}


@pytest.mark.parametrize("case", WRONG_DRAFTS)
def test_a_draft_that_does_not_belong_here_is_a_failed_check(case: str, with_draft: Path) -> None:
    changes, told = WRONG_DRAFTS[case]
    change(with_draft / "draft", **changes)
    found = checks_of(with_draft)
    assert not found["draft", "identity"].passed and told in found["draft", "identity"].detail
    assert not any(container.startswith("draft/") for container, _ in found)


def test_a_draft_that_is_not_there_is_a_failed_check(with_draft: Path) -> None:
    shutil.rmtree(with_draft / "draft")
    found = checks_of(with_draft)
    assert not found["draft", "identity"].passed and "draft is missing" in found["draft", "identity"].detail
