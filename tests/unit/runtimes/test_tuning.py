"""`edgeport tune`: finds a planted gain, refuses a planted loss and what changes the text, remembers per machine and file.

Timings of tiny models are noise, so a delay is planted around the real child: it sleeps while a setting has, or has not, a value.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.cli import main
from edgeport.cli.tune import _chosen
from edgeport.errors import UsageError
from edgeport.runtimes.artifact import choose, load
from edgeport.runtimes.cache_folder import cache_folder
from edgeport.runtimes.container import Container, find_containers
from edgeport.runtimes.engine_settings import EngineSettings
from edgeport.runtimes.engines import unavailable_because
from edgeport.runtimes.tuning import store
from edgeport.runtimes.tuning.candidates import candidates
from edgeport.runtimes.tuning.difference import difference
from edgeport.runtimes.tuning.measured import serve
from edgeport.runtimes.tuning.store import Host, Tuned, forget, recall, remember, tuned_settings
from edgeport.runtimes.tuning.tune import TuneOptions, tune

PLANTED_S = 0.02
needs_onnx = pytest.mark.skipif(unavailable_because("onnx") is not None, reason="no onnxruntime")


def slow_unless_it_sleeps(**arguments: Any) -> Generator[dict[str, Any], dict[str, Any], None]:
    return _delayed(arguments, slow=arguments["settings"].get("spinning") is not False)


def slow_when_it_sleeps(**arguments: Any) -> Generator[dict[str, Any], dict[str, Any], None]:
    return _delayed(arguments, slow=arguments["settings"].get("spinning") is False)


def _delayed(arguments: Any, *, slow: bool) -> Generator[dict[str, Any], dict[str, Any], None]:
    child = serve(**arguments)
    reply = next(child)
    while True:
        asked = yield reply
        reply = child.send(asked)
        if "ns" in reply:
            time.sleep(PLANTED_S)
            reply["ns"] = int(PLANTED_S * 1e9 * (3 if slow else 1)) + reply["ns"] // 100


@pytest.fixture
def onnx(packed_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    monkeypatch.setenv("EDGEPORT_CACHE", str(tmp_path / "cache"))
    return next(item for item in find_containers(packed_dir) if item.format == "onnx")


OPTIONS = TuneOptions(objective="decode", seconds=30, context_length=128, depth=16)


@needs_onnx
def test_a_planted_gain_is_found_and_used(onnx: Container) -> None:
    found = tune(onnx, OPTIONS, target=f"{__name__}:slow_unless_it_sleeps")
    assert found.settings.get("spinning") is False
    assert found.low > 2 and found.gain == pytest.approx(3, rel=0.2)
    taken = next(item for item in found.tried if item.changes == {"spinning": False})
    assert taken.verdict == "taken" and taken.mean_kl_divergence == 0 and taken.same_top1 == 1
    assert remember(onnx, found) and recall(onnx) == found
    assert tuned_settings(onnx) == found.engine_settings()
    with load(onnx.path) as model:
        assert model.settings == found.engine_settings()
    with load(onnx.path, tuned=False) as model:
        assert model.settings == EngineSettings()


@needs_onnx
def test_a_planted_loss_is_refused(onnx: Container) -> None:
    found = tune(onnx, replace(OPTIONS, seconds=15), target=f"{__name__}:slow_when_it_sleeps")
    assert "spinning" not in found.settings
    assert next(item for item in found.tried if item.changes == {"spinning": False}).verdict == "slower"


def test_coarser_settings_are_tried_only_when_asked() -> None:
    for engine in ("gguf", "openvino"):
        lists = [
            list(candidates(engine, "decode", cores=2, logical=4, allow_coarser=allowed))
            for allowed in (False, True)
        ]
        assert not any(item.is_coarser for item in lists[0]) and any(item.is_coarser for item in lists[1])
    for item in candidates("safetensors", "both", cores=2, logical=2, allow_coarser=True):
        pytest.fail(f"the reference engine has no settings, not {item}")


def test_threads_are_tried_within_what_there_is() -> None:
    def threads(cores: int, logical: int) -> list[int]:
        found = candidates("onnx", "decode", cores=cores, logical=logical, allow_coarser=False)
        return [item.changes["threads"] for item in found if "threads" in item.changes]

    assert threads(1, 1) == [] and threads(2, 2) == [1] and threads(8, 16) == [7, 4, 16]


def test_another_cache_is_told_from_rounding(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3, size=(48, 500))

    def written(name: str, noise: float) -> Path:
        moved = logits + generator.normal(scale=noise, size=logits.shape)
        np.save(tmp_path / name, moved - np.log(np.exp(moved).sum(axis=1, keepdims=True)))
        return tmp_path / name

    exact, rounding, coarse = written("a.npy", 0), written("b.npy", 0.01), written("c.npy", 0.5)
    assert difference(exact, exact).largest == 0
    assert difference(exact, rounding).is_same_class and not difference(exact, coarse).is_same_class


def entry(onnx: Container, **changes: Any) -> Tuned:
    host = store.read_host_key("onnx")
    made = Tuned(
        "tiny", "onnx", store.identity(onnx), "decode", host, {"spinning": False}, 1.2, 1.1, 1.3, 9.0, "now"
    )
    return replace(made, **changes)


@needs_onnx
def test_what_was_tuned_elsewhere_is_not_used(onnx: Container) -> None:
    assert tuned_settings(onnx) is None
    for host in (Host("another", 2, "1"), replace(store.read_host_key("onnx"), engine_version="0.0.1")):
        remember(onnx, entry(onnx, host=host))
        assert tuned_settings(onnx) is None
    remember(onnx, entry(onnx))
    assert tuned_settings(onnx) == EngineSettings(spinning=False)
    assert forget(onnx) and not forget(onnx) and tuned_settings(onnx) is None


@needs_onnx
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "onnx"}'])
def test_a_damaged_entry_is_no_entry(onnx: Container, content: str) -> None:
    remember(onnx, entry(onnx))
    (file,) = (cache_folder() / "tuned").iterdir()
    file.write_text(content)
    assert tuned_settings(onnx) is None


@needs_onnx
def test_a_setting_the_engine_has_not_is_no_entry(onnx: Container) -> None:
    remember(onnx, entry(onnx, settings={"flash_attention": True}))
    assert tuned_settings(onnx) is None


@needs_onnx
def test_the_command(onnx: Container, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(onnx.path)
    assert main(["tune", folder, "--show"]) == 0
    assert "nothing was tuned" in capsys.readouterr().out
    remember(onnx, entry(onnx))
    assert main(["tune", folder, "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["settings"] == {"spinning": False}
    assert main(["tune", folder, "--show"]) == 0
    assert "kept: spinning=off, 1.200 times" in capsys.readouterr().out
    assert main(["tune", folder, "--forget"]) == 0
    assert "forgotten: onnx" in capsys.readouterr().out
    assert main(["tune", folder, "--format", "gguf"]) == 2
    assert main(["tune", folder, "--seconds", "1"]) == 2


def test_without_a_name_it_is_the_container_that_load_takes(
    packed_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    containers = [item for name in ("openvino", "gguf") for item in find_containers(packed_dir / name)]
    arguments = argparse.Namespace(path=packed_dir, format=[], show=False, forget=False, quiet=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeport.runtimes.container.find_containers", lambda _: containers)
        assert [item.format for item in _chosen(arguments)] == [choose(containers, None)[0].format]
        assert "`--format all` for the others" in capsys.readouterr().err
        arguments.format = ["all"]
        assert [item.format for item in _chosen(arguments)] == ["openvino", "gguf"]
        arguments.format = ["gguf"]
        assert [item.format for item in _chosen(arguments)] == ["gguf"]


def test_too_little_time_is_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        TuneOptions(seconds=2)
