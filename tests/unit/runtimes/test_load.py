"""`load` finds containers, chooses an engine and says why; importing it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeport.devices.cpu import read_cpu
from edgeport.errors import ArtifactError, MissingExtra, RuntimeFailure, UsageError
from edgeport.manifest import ContainerEntry, Manifest, ModelFacts, SourceFacts
from edgeport.runtimes import GenerationOptions, SessionOptions, engines, load
from edgeport.runtimes.artifact import choose
from edgeport.runtimes.container import Container, find_containers

HEAVY = [
    "numpy",
    "onnxruntime",
    "openvino",
    "llama_cpp",
    "torch",
    "transformers",
    "tokenizers",
    "jinja2",
    "asyncio",
]
EXACT = SessionOptions(threads=1, exact=True)


def manifest_with_speed(cpu_model: str, **rates: float) -> Manifest:
    facts = ModelFacts("llama", 1, 1, 64, 128, 4, 2, 16, 512, 256, True, 4.5, 128)
    speed = {
        name: {"decode": {"tokens_per_s": rate}, "environment": {"cpu_model": cpu_model}}
        for name, rate in rates.items()
    }
    entries = tuple(ContainerEntry(name, f"{name}/x", (), 0, "id") for name in engines.ENGINES)
    return Manifest(
        "tiny", "now", SourceFacts("s", "f", 1, "bf16"), {}, "edge", facts, "id", entries, speed=speed
    )


def every_container(manifest: Manifest | None = None) -> list[Container]:
    return [Container(name, Path(name), manifest) for name in engines.ENGINES]


@pytest.mark.parametrize("statement", ["import edgeport.runtimes", "from edgeport.runtimes import load"])
def test_import_is_light(statement: str) -> None:
    code = f"""
import sys, time
begin = time.process_time()
{statement}
spent = time.process_time() - begin
from edgeport.runtimes.engines import available
available()
print([name for name in {HEAVY} if name in sys.modules], spent)
"""
    times = []
    for _ in range(3):  # the best of three: another process may be busy on this machine
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded, spent = result.stdout.rsplit(" ", 1)
        assert loaded == "[]"
        times.append(float(spent))
    assert min(times) < 0.1


def test_every_public_name_is_there() -> None:
    import edgeport.runtimes as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    wrong = "Modell"
    with pytest.raises(AttributeError, match="no attribute 'Modell'"):
        getattr(package, wrong)


def test_load_finds_sub_folders_and_runs_every_engine(packed_dir: Path) -> None:
    texts = {}
    for name in engines.ENGINES:
        with load(packed_dir, runtime=name, options=EXACT) as model:
            assert model.choice_reason == "asked for by name"
            texts[name] = model.generate("def area(", GenerationOptions(max_tokens=12)).text
            streamed = "".join(
                token.text for token in model.stream("def area(", GenerationOptions(max_tokens=12))
            )
            assert streamed == texts[name], "a second call starts anew"
    assert len(set(texts.values())) == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gguf", "gguf"),
        ("onnx", "onnx"),
        ("openvino", "openvino"),
        ("safetensors", "safetensors"),
        ("onnx/model.onnx", "onnx"),
        ("openvino/openvino_model.xml", "openvino"),
        ("safetensors/model.safetensors", "safetensors"),
    ],
)
def test_a_sub_folder_or_a_file_is_enough(path: str, expected: str, packed_dir: Path) -> None:
    with load(packed_dir / path, options=EXACT) as model:
        assert model.format == expected
        completion = model.chat([{"role": "user", "content": "hi"}], GenerationOptions(max_tokens=3))
    assert len(completion.tokens) <= 3 and completion.prompt_tokens > 3 and completion.ttft_ms > 0


def test_settings_that_were_tuned_here_are_used(
    packed_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeport.runtimes.engine_settings import EngineSettings
    from edgeport.runtimes.tuning.store import Tuned, identity, read_host_key, remember

    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path))
    (container,) = find_containers(packed_dir / "gguf")
    found = {"prompt_chunk_tokens": 64}
    host = read_host_key("gguf")
    facts = ("tiny", "gguf", identity(container), "decode", host, found, 1.1, 1.05, 1.2, 9.0, "now")
    with load(packed_dir / "gguf", check="never") as model:
        assert model.settings == EngineSettings()
    assert remember(container, Tuned(*facts))
    with load(packed_dir / "gguf", check="never") as model:
        assert model.settings == EngineSettings(prompt_chunk_tokens=64)
        assert model.generate("def area(", GenerationOptions(max_tokens=2)).tokens
    with load(packed_dir / "gguf", check="never", tuned=False) as model:
        assert model.settings == EngineSettings()
    own = SessionOptions(settings=EngineSettings(prompt_chunk_tokens=128))
    with load(packed_dir / "gguf", check="never", options=own) as model:
        assert model.settings == own.settings


def test_a_closed_model_says_so(packed_dir: Path) -> None:
    model = load(packed_dir / "safetensors")
    model.close()
    model.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        model.generate("x")


def test_a_manifest_decides_what_is_there(packed_dir: Path, tmp_path: Path) -> None:
    from edgeport.manifest import to_json

    document = to_json(manifest_with_speed("none"))
    document["containers"] = [
        {
            "format": "onnx",
            "entry_point": "onnx/model.onnx",
            "files": [],
            "size_bytes": 0,
            "weights_id": "id",
            "verified": True,
        }
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"onnx/model\.onnx is missing"):
        find_containers(tmp_path)
    (tmp_path / "onnx").symlink_to(packed_dir / "onnx")
    assert [item.format for item in find_containers(tmp_path)] == ["onnx"]
    assert find_containers(tmp_path / "onnx")[0].manifest is not None, "a sub-folder knows its artifact"


def test_the_fastest_measured_on_this_processor_wins() -> None:
    here = manifest_with_speed(read_cpu().model, gguf=90.0, onnx=120.5, openvino=80.0)
    container, reason = choose(every_container(here), None)
    assert container.format == "onnx" and "120.5 tokens/s measured on this processor" in reason


def test_figures_of_another_processor_do_not_count() -> None:
    elsewhere = manifest_with_speed("Another CPU", onnx=1e6)
    assert (
        choose(every_container(elsewhere), None)[0].format
        == choose(every_container(), None)[0].format
        != "onnx"
    )


def test_what_is_not_installed_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "openvino", "llama_cpp")
    container, reason = choose(every_container(), None)
    assert container.format == "onnx"
    assert "OpenVINO needs openvino: pip install 'edgeport[openvino]'" in reason
    hide(monkeypatch, "numpy")
    with pytest.raises(MissingExtra, match="no engine for this model is installed"):
        choose(every_container(), None)
    with pytest.raises(MissingExtra) as caught:
        engines.open_session("gguf", Path("x"), SessionOptions())
    assert caught.value.hint == "pip install 'edgeport[gguf]'"


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    import importlib.util

    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in packages else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_what_cannot_be_loaded_is_said(packed_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="no model in"):
        load(tmp_path)
    with pytest.raises(UsageError, match="no 'onnx' container here"):
        load(packed_dir / "gguf", runtime="onnx")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="not a model file"):
        load(tmp_path / "notes.txt")
