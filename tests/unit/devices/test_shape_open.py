"""What a user may name as a model, and what is said when it is none."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeport.devices.known_models import load_known
from edgeport.devices.open_shape import open_shape
from edgeport.devices.shape import shape_of
from edgeport.errors import ArtifactError, UsageError
from edgeport.manifest import Manifest, ModelFacts, SourceFacts, write_manifest

REFERENCE = Path(__file__).parents[3] / "models" / "reference"
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "hub"


def test_a_folder_its_config_and_its_weights_are_one_model() -> None:
    folder = open_shape(str(REFERENCE))
    assert folder.parameters == 5_573_888
    assert {tensor.bits for tensor in folder.tensors} == {16.0}
    assert open_shape(str(REFERENCE / "model.safetensors")) == folder
    plain = open_shape(str(REFERENCE / "config.json"))
    assert (plain.parameters, {tensor.bits for tensor in plain.tensors}) == (folder.parameters, {None})


def test_known_names_and_hub_ids_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert open_shape("Llama-3.2-1B") == open_shape("meta-llama/Llama-3.2-1B") == load_known("llama-3.2-1b")


def test_a_download_of_another_tool_is_found(no_hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = no_hub_cache / "models--someone--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert open_shape("someone/tiny").name == "someone/tiny"
    with pytest.raises(UsageError, match="not in the local cache"):
        open_shape("someone/else")


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/someone/tiny/resolve/main/config.json"
        body = json.dumps(CONFIG).encode() if known else b"gone"
        if self.path.startswith("/someone/huge/"):
            body, known = b" " * (5 << 20), True
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_hub_id_is_fetched_when_it_is_named() -> None:
    assert open_shape("someone/tiny").parameters == open_shape_of_config()
    with pytest.raises(UsageError, match="answers 404"):
        open_shape("someone/missing")
    with pytest.raises(UsageError, match="more than"):
        open_shape("someone/huge")


def open_shape_of_config() -> int:
    hidden, width = 64, 96
    layer = 2 * hidden * hidden + 2 * 32 * hidden + 3 * hidden * width + 2 * hidden
    return 128 * hidden + 2 * layer + hidden


def test_without_a_network_the_hub_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="cannot be fetched"):
        open_shape("someone/tiny")


@pytest.mark.parametrize("text", ["no-such-model", "a/b/c", "../x/y", "owner/..", "", "llama-3.1-8B-base"])
def test_nonsense_is_refused_with_what_is_allowed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        open_shape(text)
    assert "config.json" in (caught.value.hint or "") or "config.json" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_broken_config_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match="config.json"):
        open_shape(str(tmp_path))


def manifest(model: ModelFacts) -> Manifest:
    source = SourceFacts("tiny", "", 0, "bf16")
    return Manifest("tiny", "", source, {}, "host", model, "", ())


def test_an_artifact_is_its_manifest_or_its_config(
    tmp_path: Path, smollm2_135m: ModelFacts, qwen25_05b: ModelFacts
) -> None:
    write_manifest(manifest(smollm2_135m), tmp_path)
    shape = open_shape(str(tmp_path))
    assert (shape.name, shape.parameters) == ("tiny", smollm2_135m.parameters)
    from edgeport.manifest import ContainerEntry

    entry = ContainerEntry("openvino", "openvino/openvino_model.xml", (), 1, "")
    known = load_known("qwen2.5-0.5b")
    (tmp_path / "openvino").mkdir()
    from edgeport.devices.known_models import read_known

    (tmp_path / "openvino" / "config.json").write_text(json.dumps(read_known("qwen2.5-0.5b")["config"]))
    write_manifest(dataclasses.replace(manifest(qwen25_05b), containers=(entry,)), tmp_path)
    assert open_shape(str(tmp_path)).tensors == known.tensors
    write_manifest(dataclasses.replace(manifest(smollm2_135m), containers=(entry,)), tmp_path)
    with pytest.raises(ArtifactError, match="134515008"):
        open_shape(str(tmp_path))


def test_facts_make_the_same_sums_as_the_configuration(
    smollm2_135m: ModelFacts, qwen25_05b: ModelFacts, llama31_8b: ModelFacts
) -> None:
    for facts, name in (
        (smollm2_135m, "smollm2-135m"), (qwen25_05b, "qwen2.5-0.5b"), (llama31_8b, "llama-3.1-8b"),
    ):  # fmt: skip
        shape, known = shape_of(facts), load_known(name)
        assert shape.parameters == known.parameters
        assert shape.caches == known.caches
        assert shape.active_parameters == known.active_parameters
        for role in ("linear", "embedding", "head"):
            assert shape.parameters_of([role]) == known.parameters_of([role])


def test_facts_of_unequal_layers_keep_their_sums(smollm2_135m: ModelFacts) -> None:
    """A Nemotron-NAS model: the widest layer's sizes, and the sums over all layers."""
    uneven = dataclasses.replace(
        smollm2_135m,
        parameters=smollm2_135m.parameters - 20_000_000,
        kv_bytes_per_token=smollm2_135m.kv_bytes_per_token - 4 * 64,
    )
    shape = shape_of(uneven)
    assert shape.parameters == uneven.parameters
    assert sum(2 * cache.values_per_token for cache in shape.caches) == uneven.kv_bytes_per_token
