"""The published parameter counts of well-known models, to the last one."""

from __future__ import annotations

import pytest

from edgeport.devices.known_models import known_by_hub_id, known_names, load_known, read_known
from edgeport.errors import UsageError


@pytest.mark.parametrize("name", known_names())
def test_the_configuration_gives_the_published_parameter_count(name: str) -> None:
    assert load_known(name).parameters == read_known(name)["parameters"]
    assert read_known(name)["parameters_source"]


@pytest.mark.parametrize(
    ("name", "billions"),
    [("mixtral-8x7b", 12.9), ("olmoe-1b-7b", 1.3), ("gpt-oss-20b", 3.61), ("gpt-oss-120b", 5.13),
     ("qwen3-30b-a3b", 3.3)],
)  # fmt: skip
def test_active_parameters_of_mixtures_as_published(name: str, billions: float) -> None:
    """Publishers count the embedding table too, of which a token reads one row; gpt-oss's count it without the table."""
    shape = load_known(name)
    table = 0 if name.startswith("gpt-oss") else shape.parameters_of(["embedding"])
    assert (shape.active_parameters + table) / 1e9 == pytest.approx(billions, rel=0.025)


def test_enough_models_are_known_and_each_is_found_by_its_hub_id() -> None:
    assert len(known_names()) >= 40
    for name in known_names():
        assert known_by_hub_id(read_known(name)["hub_id"].upper()) == name
    assert known_by_hub_id("nobody/nothing") is None


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'llama-3.1-8b'"):
        load_known("llama-3.1-8B-instruct")
