"""The draft of an artifact: opened beside the model, used where it may be, and refused where it does not belong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.errors import ArtifactError, EdgeportError, UsageError
from edgeport.export.evaluate.draft import DraftTrial, attach_draft
from edgeport.manifest import (
    ContainerEntry,
    DraftEntry,
    Manifest,
    ModelFacts,
    SourceFacts,
    read_manifest,
    write_manifest,
)
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes import GenerationOptions, Sampling, SessionOptions, load

ENTRY_POINTS = {"gguf": "gguf/tiny-Q4_0.gguf", "safetensors": "safetensors/config.json"}
FACTS = ModelFacts("qwen2", 1000, 2, 64, 128, 4, 2, 16, 512, 256, False, 4.5, 256)
EXACT = SessionOptions(threads=1, context_length=128, exact=True)
PROMPT = "def area(self) -> float:\n    return"
FORTY = GenerationOptions(max_tokens=40, ignore_stop_tokens=True)


def write_artifact(directory: Path, packed: Path, formats: tuple[str, ...]) -> None:
    for name in formats:
        shutil.copytree(packed / name, directory / name)
    entries = tuple(ContainerEntry(name, ENTRY_POINTS[name], (), 0, "id") for name in formats)
    source = SourceFacts("s", "f", 1, "bf16")
    write_manifest(Manifest("tiny", "now", source, {}, "edge", FACTS, "id", entries), directory)


@pytest.fixture
def artifact(packed_dir: Path, tmp_path: Path) -> Path:
    """A model and, as its draft, the same model: every proposal is right."""
    folder = tmp_path / "artifact"
    write_artifact(folder, packed_dir, ("safetensors", "gguf"))
    write_artifact(folder / "draft", packed_dir, ("safetensors", "gguf"))
    write_manifest(replace(read_manifest(folder), draft=DraftEntry("draft", "id", 3)), folder)
    return folder


def change(artifact: Path, **changes: object) -> None:
    write_manifest(replace(read_manifest(artifact), **changes), artifact)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["safetensors", "gguf"])
def test_the_text_is_the_same_and_the_draft_was_used(artifact: Path, runtime: str) -> None:
    with load(artifact, runtime=runtime, options=EXACT) as model:
        assert model.draft is None, "not without being asked"
        alone = model.generate(PROMPT, FORTY)
    with load(artifact, runtime=runtime, options=EXACT, draft="auto") as model:
        assert model.draft is not None and model.draft.drafted_tokens == 3
        for _ in range(2):
            assert model.generate(PROMPT, FORTY).tokens == alone.tokens
        assert model.draft.acceptance().rate == 1 and model.draft.acceptance().steps > 0


def test_a_seed_keeps_its_promise(artifact: Path) -> None:
    sampling = Sampling(temperature=1.2, seed=5)
    options = GenerationOptions(max_tokens=40, sampling=sampling, ignore_stop_tokens=True)
    with load(artifact, runtime="safetensors", options=EXACT) as model:
        alone = model.generate(PROMPT, options).tokens
    with load(artifact, runtime="safetensors", options=EXACT, draft="auto") as model:
        assert model.draft is not None
        assert model.generate(PROMPT, options).tokens == alone
        assert model.draft.acceptance().steps == 0
        model.generate(PROMPT, replace(options, sampling=Sampling(temperature=1.2)))
        assert model.draft.acceptance().steps > 0, "without a seed nothing was promised"


def test_a_sub_folder_has_the_artifacts_draft(artifact: Path) -> None:
    with load(artifact / "safetensors", options=EXACT, draft="auto") as model:
        assert model.draft is not None


def test_without_the_same_engine_there_is_no_draft(artifact: Path) -> None:
    draft = read_manifest(artifact / "draft")
    change(artifact / "draft", containers=draft.containers[1:])
    with load(artifact, runtime="safetensors", options=EXACT, draft="auto") as model:
        assert model.draft is None


def test_a_draft_made_for_less_context_helps_as_far_as_it_goes(artifact: Path) -> None:
    facts = replace(FACTS, context_length=48)
    change(artifact / "draft", model=facts)
    options = GenerationOptions(max_tokens=90, ignore_stop_tokens=True)
    with load(artifact, runtime="safetensors", options=EXACT) as model:
        alone = model.generate(PROMPT, options).tokens
    with load(artifact, runtime="safetensors", options=EXACT, draft="auto") as model:
        assert model.draft is not None and model.draft.session.context_length == 48
        assert model.generate(PROMPT, options).tokens == alone


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("gone", "gone is missing"),
        ("../draft", "outside of the artifact"),
        ("/tmp", "outside of the artifact"),
        ("", "outside of the artifact"),
    ],
)
def test_a_draft_that_is_not_in_the_artifact_is_refused(artifact: Path, folder: str, told: str) -> None:
    change(artifact, draft=DraftEntry(folder, "id"))
    with pytest.raises(ArtifactError, match=told):
        load(artifact, runtime="safetensors", options=EXACT, draft="auto")
    load(artifact, runtime="safetensors", options=EXACT).close()


def test_a_draft_with_another_tokenizer_is_refused(artifact: Path) -> None:
    path = artifact / "draft" / "safetensors" / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (300, 301))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="the draft's tokenizer has another token 30"):
        load(artifact, runtime="safetensors", options=EXACT, draft="auto")


def test_a_damaged_draft_is_an_error_and_does_not_end_the_process(artifact: Path) -> None:
    """llama.cpp asserts that no token occurs twice."""
    (file,) = (artifact / "draft" / "gguf").glob("*.gguf")
    file.write_bytes(file.read_bytes().replace(b"<|unused7|>", b"<|unused8|>"))
    with pytest.raises(ArtifactError, match="draft.*cannot be loaded: llama.cpp killed its process: SIGABRT"):
        load(artifact, runtime="gguf", draft="auto")
    load(artifact, runtime="gguf").close()


def test_another_choice_is_refused(artifact: Path) -> None:
    with pytest.raises(UsageError, match="draft is 'always'"):
        load(artifact, draft="always")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["run", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_uses_it_and_says_so(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (str(artifact), PROMPT, "--runtime", "safetensors", "--max-tokens", "40")
    code, alone, err = run(capsys, *words, "--draft", "none")
    assert code == 0 and "draft" not in err
    code, text, err = run(capsys, *words)
    assert code == 0 and text == alone
    assert "draft: 100% of its proposals kept, " in err and "tokens per step" in err
    document = json.loads(run(capsys, *words, "--json")[1])
    assert document["draft"]["rate"] == 1.0
    assert json.loads(run(capsys, *words, "--json", "--draft", "none")[1])["draft"] is None


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("class Shape:\n    def area(self) -> float:\n        raise NotImplementedError\n" * 8)
    return path


def test_attaching_measures_copies_and_notes(
    packed_dir: Path, artifact: Path, text: Path, tmp_path: Path
) -> None:
    write_artifact(tmp_path / "model", packed_dir, ("safetensors", "gguf"))
    model = tmp_path / "model"
    trial = DraftTrial(prompts=2, prompt_tokens=8, new_tokens=11, drafted_tokens=4)
    for _ in range(2):  # the second replaces the first
        entry = attach_draft(model, artifact / "draft", text, trial, threads=1, progress=NO_PROGRESS)
        assert (entry.folder, entry.weights_id, entry.drafted_tokens) == ("draft", "id", 4)
        assert (entry.acceptance_rate, entry.tokens_per_step) == (1.0, 5.0), (
            "the same model: every proposal is right"
        )
        assert read_manifest(model).draft == entry
        assert read_manifest(model / "draft") == read_manifest(artifact / "draft")
    with load(model, runtime="gguf", options=EXACT, draft="auto") as loaded:
        assert loaded.draft is not None
    assert not [path for path in model.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_a_draft_is_not_attached(artifact: Path, text: Path, tmp_path: Path) -> None:
    before = (artifact / "manifest.json").read_text()

    def attach(told: str, **changes: object) -> None:
        other = tmp_path / "other"
        shutil.copytree(artifact / "draft", other)
        change(other, **changes)
        with pytest.raises(EdgeportError, match=told):
            attach_draft(artifact, other, text, threads=1, progress=NO_PROGRESS)
        shutil.rmtree(other)
        assert (artifact / "manifest.json").read_text() == before

    attach("100 tokens in its vocabulary, the model 512", model=replace(FACTS, vocab_size=100))
    attach("has a draft of its own", draft=DraftEntry("draft", "id"))
    attach(
        "no container in a format of the model's",
        containers=(ContainerEntry("onnx", "onnx/model.onnx", (), 0, "id"),),
    )
    text.write_text("too short")
    attach("a prompt needs 32")
