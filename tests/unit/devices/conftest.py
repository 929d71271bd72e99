"""Published model shapes and fake /proc and /sys trees; every test gets an empty user directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgeport.devices.catalog import load_profile
from edgeport.devices.profile import DeviceProfile
from edgeport.manifest import ModelFacts

FakeRoot = Callable[[Mapping[str, str]], Path]


@pytest.fixture(autouse=True)
def user_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "user-devices"
    monkeypatch.setenv("EDGEPORT_DEVICES", str(directory))
    return directory


@pytest.fixture
def fake_root(tmp_path: Path) -> FakeRoot:
    """Write files (path -> content) below a folder that stands for `/`."""

    def build(files: Mapping[str, str]) -> Path:
        root = tmp_path / "root"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return root

    return build


def model(
    parameters: int,
    *,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    context: int,
    tied: bool,
) -> ModelFacts:
    return ModelFacts(
        family="llama",
        parameters=parameters,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        context_length=context,
        tied_embeddings=tied,
        bits_per_weight=4.5,
        kv_bytes_per_token=2 * 2 * layers * kv_heads * head_dim,
    )


# Shapes from the published config.json, parameter counts from the model cards' safetensors metadata.
@pytest.fixture
def smollm2_135m() -> ModelFacts:
    return model(
        134_515_008, layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64,
        vocab=49152, context=8192, tied=True,
    )  # fmt: skip


@pytest.fixture
def qwen25_05b() -> ModelFacts:
    return model(
        494_032_768, layers=24, hidden=896, intermediate=4864, heads=14, kv_heads=2, head_dim=64,
        vocab=151936, context=32768, tied=True,
    )  # fmt: skip


@pytest.fixture
def llama31_8b() -> ModelFacts:
    return model(
        8_030_261_248, layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128,
        vocab=128256, context=131072, tied=False,
    )  # fmt: skip


@pytest.fixture
def edge() -> DeviceProfile:
    return load_profile("edge")


@pytest.fixture
def pi5() -> DeviceProfile:
    return load_profile("raspberry-pi-5-8gb")
