"""Write the tables of docs/families.md from the records of the proofs, or with --check say whether they are up to date.

    python docs/generate_families.py              the tables, from docs/*.jsonl and tests/families/tokenizers/results.py
    python docs/generate_families.py --prove      prove every family first (minutes), and write docs/*.jsonl anew
    python docs/generate_families.py --prove gemma3 phi3      these families alone, the others' records stay

Each family is proven in a process of its own: an engine that aborts is a finding, not the end of this one.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS, TESTS = ROOT / "docs", ROOT / "tests" / "families"
TARGET = DOCS / "families.md"
DECODERS = {
    "llama": "Llama 2, TinyLlama, SmolLM2: head tied to the embedding",
    "llama3": "Llama 3.1, 3.2: scaled rope, head of its own",
    "llama-biases": "Llama with biases in every linear",
    "mistral": "Mistral 0.1: a window in every layer; heads wider than hidden size / heads (Nemo)",
    "mistral-v0.3": "Mistral 0.2, 0.3: no window",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen2-window": "Qwen2 with `use_sliding_window`",
    "qwen3": "Qwen3, dense",
    "gemma2": "Gemma 2 2B, 9B",
    "gemma2-27b": "Gemma 2 27B: scores by hidden size / heads",
    "gemma3": "Gemma 3, text: 270M, 1B",
    "phi3": "Phi-3 128k: long rope, for its short context",
    "phi3-4k": "Phi-3 4k: a window in every layer",
    "phi4-mini": "Phi-4-mini: long rope over three quarters of a head",
    "granite": "Granite 3.x, dense",
    "olmo2": "OLMo 2",
}
"""Twins in the order of the table, and what each stands for."""
ENCODERS = {
    "bert": "BERT, MiniLM, BGE, E5",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa, multilingual E5, BGE-M3",
    "distilbert": "DistilBERT",
}
CONTAINERS = ("gguf", "onnx", "openvino", "safetensors")
BEGIN, END = "<!-- {} begin: written by generate_families.py -->", "<!-- {} end -->"


@dataclass(frozen=True, slots=True)
class Table:
    """rows: each family with what it stands for. An encoder has several rows, named FAMILY: TASK in the records."""

    name: str
    proof: Path
    records: Path
    rows: Mapping[str, str]
    containers: tuple[str, ...]


TABLES = (
    Table("families", TESTS / "family_proof.py", DOCS / "families.jsonl", DECODERS, CONTAINERS),
    Table("encoders", TESTS / "encoder_proof.py", DOCS / "encoders.jsonl", ENCODERS, CONTAINERS[:3]),
)


def by_path(path: Path) -> Any:
    """A module of the tests, which are no package."""
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prove(table: Table, families: Sequence[str]) -> None:
    """Run the proofs and replace these families' records; stops when one differs or dies."""
    old = table.records.read_text(encoding="utf-8").splitlines() if table.records.is_file() else []
    kept = [line for line in old if _family(line) not in families]
    for family in families:
        done = subprocess.run(
            [sys.executable, str(table.proof), family],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        found = done.stdout.splitlines()
        print(f"{family}: {len(found)} records", file=sys.stderr)
        differing = [line for line in found if '"differs"' in line]
        if done.returncode or differing:
            told = [f"{family} is not proven (exit code {done.returncode})", *differing, done.stderr[-2000:]]
            raise SystemExit("\n".join(told))
        kept += found
    order = list(table.rows)
    kept.sort(key=lambda line: order.index(_family(line)))
    table.records.write_text("\n".join(kept) + "\n", encoding="utf-8")


def _family(line: str) -> str:
    return str(json.loads(line)["family"]).partition(":")[0]


def render(page: str, tables: Sequence[Table] = TABLES) -> str:
    """The page with its tables written anew."""
    written = {table.name: family_lines(table) for table in tables}
    written["tokenizers"] = tokenizer_lines(by_path(TESTS / "tokenizers" / "results.py").RESULTS)
    for name, lines in written.items():
        begin, end = BEGIN.format(name), END.format(name)
        pattern = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(page):
            raise SystemExit(f"docs/families.md has no place for the table of {name}: {begin} ... {end}")
        text = "\n".join([begin, "", *lines, "", end])
        page = pattern.sub(lambda _, text=text: text, page)
    return page


def family_lines(table: Table) -> list[str]:
    """One row per family and task, one column per container; reasons of refusals below, numbered."""
    outcomes = by_path(TESTS / "family_proof.py").read_records(table.records)
    reasons: dict[str, int] = {}
    lines = _header("family", "as published", *table.containers)
    for name in dict.fromkeys(item.family for item in outcomes):
        family, _, task = name.partition(": ")
        rows = [item for item in outcomes if item.family == name]
        cells = [
            _cell([item for item in rows if item.container == held], reasons) for held in table.containers
        ]
        stands_for = table.rows[family] + (f": {task}" if task else "")
        lines.append(_row(f"`{family}`", stands_for, *cells))
    notes = [f"{number}. {textwrap.shorten(reason, 160)}" for reason, number in reasons.items()]
    if notes:
        lines += ["", "Refused, with the words of the message:", "", *notes]
    errors = [item.relative_error for item in outcomes if item.verdict == "proven"]
    proven = f"{len(errors)} proofs; the largest relative error among them is {max(errors):.0e}."
    return [*lines, "", proven]


def _cell(rows: Sequence[Any], reasons: dict[str, int]) -> str:
    """`int4, int8` that are proven, then `refused (1)`; a scheme counts as proven when every engine proved it."""
    schemes = list(dict.fromkeys(item.scheme for item in rows))
    proven, refused = [], {}
    for scheme in schemes:
        mine = [item for item in rows if item.scheme == scheme]
        if all(item.verdict == "proven" for item in mine):
            proven.append(scheme)
        for item in mine:
            if item.verdict == "refused":
                refused.setdefault(reasons.setdefault(item.reason, len(reasons) + 1), []).append(scheme)
    parts = [", ".join(proven)] if proven else []
    parts += [f"refused ({number})" for number in refused]
    return "; ".join(parts)


def tokenizer_lines(results: Iterable[Any]) -> list[str]:
    """One row per kind of tokenizer, one column per container."""
    found = list(results)
    kinds = list(dict.fromkeys(item.kind for item in found))
    containers = list(dict.fromkeys(item.container for item in found))
    cells = {(item.kind, item.container): _tokenizer_cell(item) for item in found}
    lines = _header("kind", *containers)
    return lines + [
        _row(f"`{kind}`", *(cells.get((kind, name), "") for name in containers)) for kind in kinds
    ]


def _tokenizer_cell(item: Any) -> str:
    told = {"equal": "equal", "limited": "equal but for", "refused": "refused:"}[item.outcome]
    return f"{told} {item.reason}".strip()


def _header(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["--prove"]:
        known = [family for table in TABLES for family in table.rows]
        unknown = sorted(set(words[1:]) - set(known))
        if unknown:
            raise SystemExit(f"unknown family {unknown[0]}; known are {', '.join(known)}")
        for table in TABLES:
            prove(table, [family for family in words[1:] or table.rows if family in table.rows])
    page = TARGET.read_text(encoding="utf-8")
    text = render(page)
    if "--check" not in words:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if page == text:
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(page.splitlines(True), text.splitlines(True), "docs/families.md", "the records")
    )
    print("docs/families.md is out of date: run python docs/generate_families.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
