"""docs/families.md says what the records say, the records cover everything, and the page can be seen to be stale."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import encoder_proof
import pytest
from family_proof import ENGINES, RECORDS, SCHEMES, Outcome, read_records, to_line

from edgeport.export.families.table import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def by_path(name: str, path: Path) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> Any:
    return by_path("generate_families", ROOT / "docs" / "generate_families.py")


@pytest.fixture(scope="module")
def twins() -> Any:
    return by_path("family_twins", ROOT / "tests" / "families" / "twins.py")


def test_the_page_is_what_the_records_say(pages: Any) -> None:
    page = pages.TARGET.read_text(encoding="utf-8")
    assert pages.render(page) == page, "python docs/generate_families.py"


def test_every_family_container_and_scheme_has_a_record(pages: Any, twins: Any) -> None:
    wanted = {(family, *engine, scheme) for family in twins.TWINS for engine in ENGINES for scheme in SCHEMES}
    check_complete(read_records(pages.TABLES[0].records), wanted)
    assert set(pages.DECODERS) == set(twins.TWINS)


def test_every_encoder_task_container_and_scheme_has_a_record(pages: Any) -> None:
    wanted = {
        (f"{family}: {task}", *engine, scheme)
        for family in encoder_proof.FAMILIES
        for task in encoder_proof.TASKS
        for engine in encoder_proof.ENGINES
        for scheme in encoder_proof.SCHEMES
    }
    check_complete(read_records(pages.TABLES[1].records), wanted)
    assert set(pages.ENCODERS) == set(encoder_proof.FAMILIES)


def check_complete(records: list[Outcome], wanted: set[tuple[str, ...]]) -> None:
    assert {record.facts[:4] for record in records} == wanted and len(records) == len(wanted)
    assert {record.verdict for record in records} == {"proven", "refused"}
    assert all(record.reason for record in records if record.verdict == "refused")


def test_every_architecture_of_the_exporter_has_a_twin(twins: Any) -> None:
    """Nemotron-NAS has no class in transformers: tests/unit/export/shapes prove it."""
    classes = {f"{twin.classes.removesuffix('Text')}ForCausalLM" for twin in twins.TWINS.values()}
    assert classes == set(FAMILIES) - {"DeciLMForCausalLM"}


def test_every_family_is_proven_somewhere(twins: Any) -> None:
    """Packed safetensors take every family; the page is not a list of refusals."""
    proven = {(item.family, item.container) for item in read_records(RECORDS) if item.verdict == "proven"}
    for family in twins.TWINS:
        assert (family, "safetensors") in proven
        assert len({container for name, container in proven if name == family}) >= 2


def test_a_changed_record_makes_the_page_stale(pages: Any, tmp_path: Path) -> None:
    decoders, encoders = pages.TABLES
    records = read_records(decoders.records)
    index = next(number for number, item in enumerate(records) if item.verdict == "proven")
    records[index] = dataclasses.replace(records[index], verdict="refused", reason="a planted reason")
    changed = tmp_path / "families.jsonl"
    changed.write_text("\n".join(map(to_line, records)) + "\n")
    page = pages.TARGET.read_text(encoding="utf-8")
    written = pages.render(page, (dataclasses.replace(decoders, records=changed), encoders))
    assert written != page and "a planted reason" in written


def test_cells() -> None:
    pages = by_path("generate_families", ROOT / "docs" / "generate_families.py")
    proven = [
        Outcome("qwen3", "gguf", "llama.cpp", scheme, "proven", "", 1e-7) for scheme in ("int4", "int8")
    ]
    refused = Outcome("qwen3", "gguf", "llama.cpp", "bf16", "refused", "no such type")
    reasons: dict[str, int] = {}
    assert pages._cell(proven, reasons) == "int4, int8"
    assert pages._cell([*proven, refused], reasons) == "int4, int8; refused (1)"
    half = Outcome("qwen3", "safetensors", "transformers", "int4", "refused", "no such type")
    assert pages._cell([proven[0], half], reasons) == "refused (1)", "one of two engines is not enough"
    assert reasons == {"no such type": 1}
