"""The model's own settings: read from where its authors put them, laid under what the caller sets, visible."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from edgeport.errors import ArtifactError
from edgeport.manifest import ContainerEntry, Manifest, ModelFacts, SourceFacts, write_manifest
from edgeport.runtimes import GenerationDefaults, GenerationOptions, Sampling, SamplingChanges, load
from edgeport.runtimes.container import Container
from edgeport.runtimes.generation_defaults import PLAIN, read_defaults

QWEN: dict[str, Any] = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "max_new_tokens": 5,
}


def defaults_of(folder: Path, document: dict[str, Any]) -> GenerationDefaults:
    (folder / "generation_config.json").write_text(json.dumps(document))
    return read_defaults(Container("onnx", folder))


def test_all_fields_are_honoured(tmp_path: Path) -> None:
    found = defaults_of(tmp_path, QWEN)
    assert found.sampling == Sampling(0.7, 20, 0.8, 0.0, 1.05)
    assert found.max_tokens == 5 and found.origin == "generation_config.json" and found.ignored == ()


def test_without_a_file_it_is_greedy(tmp_path: Path) -> None:
    assert read_defaults(Container("onnx", tmp_path)) == PLAIN


def test_a_model_that_does_not_sample_is_greedy(tmp_path: Path) -> None:
    found = defaults_of(tmp_path, {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1})
    assert found.sampling.temperature == 0 and found.sampling.repetition_penalty == 1.1
    changed = found.sampling_for(SamplingChanges(temperature=0.5))
    assert (changed.temperature, changed.top_p) == (0.5, 0.9), "what it says of sampling holds once asked for"


def test_what_do_sample_leaves_open_is_what_transformers_takes(tmp_path: Path) -> None:
    own = GenerationConfig._get_default_generation_params()
    found = defaults_of(tmp_path, {"do_sample": True}).sampling
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        assert getattr(found, name) == own[name], name


def test_minus_one_keeps_all(tmp_path: Path) -> None:
    assert defaults_of(tmp_path, {"do_sample": True, "top_k": -1, "top_p": None}).sampling.top_k == 0


def test_what_has_no_effect_here_is_named(tmp_path: Path) -> None:
    found = defaults_of(tmp_path, {"num_beams": 4, "no_repeat_ngram_size": 0, "typical_p": 0.5})
    assert found.ignored == ("num_beams=4", "typical_p=0.5")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"do_sample": True, "temperature": "hot"}, "temperature is 'hot'"),
        ({"do_sample": True, "top_p": 3}, "top_p is 3"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_nonsense_names_the_file(document: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"generation_config\.json: {told}"):
        defaults_of(tmp_path, document)


def test_three_ways_to_ask() -> None:
    own = GenerationDefaults(Sampling(0.7, 20, 0.8))
    assert own.sampling_for(None) == own.sampling
    assert own.sampling_for(SamplingChanges(temperature=0.2, seed=3)) == Sampling(0.2, 20, 0.8, seed=3)
    assert own.sampling_for(SamplingChanges(temperature=0.0)).temperature == 0
    assert own.sampling_for(Sampling(0.2)) == Sampling(0.2), "exactly these"


def test_every_field_of_sampling_can_be_changed() -> None:
    names = [{item.name for item in dataclasses.fields(kind)} for kind in (Sampling, SamplingChanges)]
    assert names[0] == names[1]


@pytest.fixture
def artifact(packed_dir: Path, tmp_path: Path) -> Path:
    """An artifact with settings of its own; they lie beside the ONNX file, the GGUF file is alone in its folder."""
    places = {"gguf": "gguf/tiny-Q4_0.gguf", "onnx": "onnx/model.onnx"}
    for name in places:
        shutil.copytree(packed_dir / name, tmp_path / name)
    facts = ModelFacts("qwen2", 1000, 2, 64, 128, 4, 2, 16, 512, 256, False, 4.5, 256)
    entries = tuple(ContainerEntry(name, path, (), 0, "id") for name, path in places.items())
    write_manifest(
        Manifest("tiny", "now", SourceFacts("s", "f", 1, "bf16"), {}, "edge", facts, "id", entries), tmp_path
    )
    (tmp_path / "onnx" / "generation_config.json").write_text(
        json.dumps({**QWEN, "temperature": 1.5, "eos_token_id": [2, 300]})
    )
    return tmp_path


@pytest.mark.parametrize("runtime", ["onnx", "gguf"])
def test_a_call_that_sets_nothing_gets_them(artifact: Path, runtime: str) -> None:
    with load(artifact, runtime=runtime, check="never") as model:
        assert model.defaults.sampling.temperature == 1.5 and model.defaults.max_tokens == 5
        texts = {model.generate("def area(").tokens for _ in range(8)}
        assert len(texts) > 1, "it samples"
        assert all(len(tokens) <= 5 for tokens in texts)
        exact = GenerationOptions(max_tokens=7, sampling=Sampling(), ignore_stop_tokens=True)
        assert len({model.generate("def area(", exact).tokens for _ in range(3)}) == 1
        assert len(model.generate("def area(", exact).tokens) == 7


@pytest.mark.parametrize("runtime", ["onnx", "gguf"])
def test_its_stop_tokens_end_a_text_in_every_container(artifact: Path, runtime: str) -> None:
    options = GenerationOptions(max_tokens=9, sampling=Sampling(logit_bias={300: 1e4}))
    with load(artifact, runtime=runtime, check="never") as model:
        done = model.generate("def area(", options)
    assert done.tokens == (300,) and done.finish_reason == "stop"


def test_a_files_own_keys_win(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    target = tmp_path / "keys.gguf"
    writer = GGUFWriter(target, "qwen2")
    writer.add_float32("general.sampling.temp", 0.7)
    writer.add_int32("general.sampling.top_k", 7)
    writer.add_float32("general.sampling.penalty_repeat", 1.25)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = read_defaults(Container("gguf", target))
    assert found.sampling == Sampling(0.7, 7, repetition_penalty=1.25)
    assert found.origin == "keys.gguf" and found.max_tokens == PLAIN.max_tokens


@pytest.mark.parametrize(
    "extra", [{}, {"top_k": None, "min_p": 0.05}, {"do_sample": False}], ids=["all", "open", "greedy"]
)
def test_what_the_exporter_writes_into_a_gguf_reads_back(extra: dict[str, Any], tmp_path: Path) -> None:
    """A GGUF file alone says what generation_config.json said."""
    from gguf import GGUFWriter

    from edgeport.export.formats.gguf_sampling import add_sampling

    (tmp_path / "source").mkdir()
    expected = defaults_of(tmp_path / "source", {**QWEN, **extra})
    (tmp_path / "alone").mkdir()
    writer = GGUFWriter(tmp_path / "alone" / "x.gguf", "qwen2")
    add_sampling(writer, tmp_path / "source")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = read_defaults(Container("gguf", tmp_path / "alone" / "x.gguf"))
    assert found.sampling == (PLAIN.sampling if extra == {"do_sample": False} else expected.sampling)
