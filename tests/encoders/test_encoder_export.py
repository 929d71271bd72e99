"""`edgeport export` of an encoder as a user runs it: a verified artifact, its numbers, and a no that leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from encoder_twins import add_sentence_files, write_twin

from edgeport.cli import main
from edgeport.export.encoders import recipes
from edgeport.manifest import file_entry, read_manifest
from edgeport.runtimes import EncoderModel, SessionOptions, load

Twins = Callable[..., Path]
FORMATS = ("onnx", "openvino", "gguf")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_twin("bert", tmp_path_factory.mktemp("source") / "small-bert")
    add_sentence_files(folder, "mean", max_length=64)
    return folder


@pytest.fixture(scope="module")
def artifact(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifact") / "out"
    words = ["export", str(source), "-o", str(out), "--format", ",".join(FORMATS), "--recipe", "int8"]
    assert main([*words, "--quiet"]) == 0
    return out


def test_the_artifact_is_verified_and_says_how_near_it_is(artifact: Path, source: Path) -> None:
    manifest = read_manifest(artifact)
    assert [entry.format for entry in manifest.containers] == list(FORMATS)
    assert all(entry.verified for entry in manifest.containers)
    assert {entry.weights_id for entry in manifest.containers} == {manifest.weights_id}
    assert {path.name for path in artifact.iterdir()} == {"manifest.json", "weights.json", "golden", *FORMATS}
    settings = manifest.encoder["settings"]
    assert (settings["pooling"], settings["normalize"], settings["max_length"]) == ("mean", True, 64)
    assert manifest.encoder["threshold"] == 0.99
    for name in FORMATS:
        found = manifest.encoder["agreement"][name]
        assert found["texts"] == 16 and 0.99 <= found["mean_pooled_cosine"] <= 1.0001
    assert manifest.source.location == str(source) and manifest.model.family == "bert"
    assert manifest.model.kv_bytes_per_token == 0 and 8 < manifest.model.bits_per_weight < 16


def test_every_file_is_listed(artifact: Path) -> None:
    for entry in read_manifest(artifact).containers:
        folder = artifact / entry.format
        found = [file_entry(path, artifact) for path in sorted(folder.rglob("*")) if path.is_file()]
        assert list(entry.files) == found
        names = {Path(item.path).relative_to(entry.format).as_posix() for item in entry.files}
        assert {"config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= names


def test_the_same_vectors_from_every_container(artifact: Path) -> None:
    texts = ["The quick brown fox.", "once upon a time there was a little girl"]
    vectors = []
    for name in FORMATS:
        with load(artifact, runtime=name, options=SessionOptions(threads=1)) as model:
            assert isinstance(model, EncoderModel)
            vectors.append(model.embed(texts).vectors)
    for other in vectors[1:]:
        assert (other * vectors[0]).sum(axis=1).min() > 0.99


def test_verify_and_a_damaged_file(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(artifact), "--quiet", "--json", "--format", "openvino"]) == 0
    document = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in document["checks"]]
    assert document["passed"] and names == ["files", "weights", "tokens", "states"]
    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    weights = bytearray((copy / "onnx" / "model.onnx.data").read_bytes())
    middle = len(weights) // 2
    weights[middle : middle + 4096] = np.random.default_rng(0).bytes(4096)
    (copy / "onnx" / "model.onnx.data").write_bytes(weights)
    assert main(["verify", str(copy), "--quiet", "--format", "onnx"]) == 1
    told = capsys.readouterr().out
    assert "FAILED" in told and "sha256" in told and "different: " in told


def test_run_prints_the_vector(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(artifact), "some text", "--runtime", "onnx"]) == 0
    assert "... 64 numbers" in capsys.readouterr().out
    assert main(["run", str(artifact), "some text", "--runtime", "onnx", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["vector"]) == 64 and document["pooling"] == "mean"
    assert np.linalg.norm(document["vector"]) == pytest.approx(1, abs=1e-5)
    assert main(["run", str(artifact), "--chat"]) == 2
    assert "encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_run_prints_labels(twin: Twins, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for head, word in (("ForSequenceClassification", "good"), ("ForTokenClassification", "0-")):
        out = tmp_path / head
        words = ["export", str(twin("bert", head)), "-o", str(out), "--format", "onnx", "--recipe", "f16"]
        assert main([*words, "--quiet"]) == 0
        told = capsys.readouterr().out
        assert "100%" in told  # the same labels as the float model's
        assert main(["run", str(out), "The lazy dog"]) == 0
        shown = capsys.readouterr().out
        assert any(label in shown for label in ("bad", "good", "neither"))
        assert word in shown or head == "ForSequenceClassification"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-static"])
def test_int8_activations(
    recipe: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(source), "-o", str(tmp_path / "out"), "--recipe", recipe, "--format", "onnx,gguf"]
    assert main([*words, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "-bit weights" in plan and "gguf is left out" in plan
    assert main([*words, "--quiet"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.containers[0].verified
    assert manifest.recipe["weight_bits"] in (7, 8) and manifest.recipe["weight_bits_reason"]
    assert manifest.encoder["agreement"]["onnx"]["mean_token_cosine"] > 0.98
    assert bool(manifest.calibration) == (recipe == "int8-static")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "distilbert"])
def test_every_family_into_every_container(family: str, twin: Twins, tmp_path: Path) -> None:
    words = ["export", str(twin(family)), "-o", str(tmp_path / "out"), "--format", ",".join(FORMATS)]
    assert main([*words, "--recipe", "int8", "--quiet"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert [entry.format for entry in manifest.containers if entry.verified] == list(FORMATS)


@pytest.mark.slow
def test_too_far_from_the_float_model_is_kept_aside(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.THRESHOLDS, 4, 0.99999)
    words = ["export", str(source), "-o", str(tmp_path / "out"), "--recipe", "int4", "--format", "onnx"]
    assert main([*words, "--quiet"]) == 1
    told = capsys.readouterr().err
    assert "is below 0.99999" in told and "out.rejected" in told
    assert not (tmp_path / "out").exists()
    kept = read_manifest(tmp_path / "out.rejected")
    assert not kept.containers[0].verified and kept.encoder["agreement"]["onnx"]["tokens"] > 100


@pytest.mark.slow
def test_own_texts_and_a_shorter_context(source: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\n\nanother text that is a little longer than the first\n")
    words = ["export", str(source), "-o", str(tmp_path / "out"), "--format", "onnx", "--recipe", "f16"]
    assert main([*words, "--heldout", str(texts), "--context", "12", "--quiet"]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest.encoder["agreement"]["onnx"]["texts"] == 2
    assert manifest.encoder["settings"]["max_length"] == 12
    with load(tmp_path / "out", options=SessionOptions(threads=1)) as model:
        assert model.context_length == 12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--solver", "gptq"], "--solver gptq"),
        (["--target-bits", "4.5"], "--target-bits"),
        (["--recipe", "edge-pruned"], "prunes"),
        (["--recipe", "int2"], "int2"),
        (["--format", "safetensors"], "decoders"),
        (["--format", "tflite"], "unknown"),
        (["--context", "65"], "64 tokens"),
        (["--recipe", "int8-dynamic", "--format", "gguf"], "ONNX Runtime"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    words: list[str], told: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(source), "-o", str(tmp_path / "out"), "--device", "edge", *words]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_export_resumes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeport.export.encoders import artifact as module

    def stop(*_values: object, **_named: object) -> None:
        raise KeyboardInterrupt

    words = [
        "export",
        str(source),
        "-o",
        str(tmp_path / "out"),
        "--format",
        "onnx",
        "--recipe",
        "f16",
        "--quiet",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_golden", stop)
        main(words)
    staged = tmp_path / ".out.edgeport-partial" / "final" / "onnx" / "model.onnx"
    written = staged.stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "out" / "onnx" / "model.onnx").stat().st_mtime_ns == written
