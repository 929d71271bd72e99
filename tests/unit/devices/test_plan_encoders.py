"""An encoder's plan: graphs of its own, no K types promised, and what INT8 means on the device's processor."""

from __future__ import annotations

from dataclasses import replace

from edgeport.devices.catalog import load_profile
from edgeport.devices.known_models import load_known
from edgeport.devices.plan import Wish, plan_device
from edgeport.devices.plan_engines import ENCODERS, export_note


def test_an_encoder_runs_in_the_engines_that_get_a_graph() -> None:
    plan = plan_device(load_known("bert-base"), load_profile("edge"), Wish())
    assert {row.format for row in plan.rows} >= {"onnx", "openvino", "gguf"}
    assert plan.export_line == ""  # the rows' schemes are those of decoders
    assert "recipes of its own" in export_note(load_known("bert-base"))


def test_the_processor_decides_on_the_bits_of_int8_weights() -> None:
    edge = load_profile("edge")
    notes = {
        isa: plan_device(load_known("bert-base"), replace(edge, architecture="x86_64", isa=isa), Wish()).notes
        for isa in (("avx2",), ("avx2", "avx512_vnni"))
    }
    assert "7-bit weights" in notes["avx2",][-1] and "8-bit weights" in notes["avx2", "avx512_vnni"][-1]
    decoder = plan_device(load_known("smollm2-135m"), edge, Wish())
    assert not any("-bit weights" in note for note in decoder.notes)


def test_the_list_of_families_is_the_exporters() -> None:
    from edgeport.export.encoders.table import ARCHITECTURES

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    own = {"dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 1, "vocab_size": 8}
    config = {**sizes, **own, "max_position_embeddings": 32}
    found = {
        family.read_spec({**config, "architectures": [name]}, task).family
        for name, (family, task) in ARCHITECTURES.items()
    }
    assert found == set(ENCODERS)
