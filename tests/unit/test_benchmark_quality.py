"""benchmarks/quality.py: the table, the aims, the picture and what is kept on disk; nothing is quantized here."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import page_table
import quality
import quality_llama
import quality_run
from quality_aims import REFERENCE_0, REFERENCE_K, best_within, verdicts
from quality_jobs import Job, Material, our_jobs, peer_jobs
from quality_plot import frontier, plot
from quality_rows import BITSANDBYTES, GROUPS, LLAMA_CPP, NNCF, OURS, Row, read_rows, write_rows
from quality_sizes import sizes
from quality_table import COLUMNS, markdown, markdown_verdicts


def row(
    name: str, group: str, engine: str, weight_bytes: int, kl: float, ratio: float = 1.004, **more: bool
) -> Row:
    figures = {
        "perplexity": 15.5 * ratio,
        "perplexity_ratio": ratio,
        "perplexity_ratio_error": 0.001,
        "mean_kl_divergence": kl,
        "kl_divergence_error": kl / 50,
        "kl_divergence_percentiles": {"p99": kl * 5},
        "same_top1": 0.91,
    }
    return Row(
        name, group, engine, file_bytes=weight_bytes + 1000, weight_bytes=weight_bytes, parameters=5_000_000,
        seconds=1.0, quality=figures, **more,
    )  # fmt: skip


def peers() -> list[Row]:
    return [
        row(REFERENCE_K, LLAMA_CPP, "gguf", 3_500_000, 0.02, four_bit=True),
        row(REFERENCE_0, LLAMA_CPP, "gguf", 3_400_000, 0.03, four_bit=True),
        row("Q8_0", LLAMA_CPP, "gguf", 5_900_000, 0.0005),
        row("INT4_SYM GPTQ", NNCF, "openvino", 3_600_000, 0.012, four_bit=True),
    ]


def test_rows_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [*peers(), Row("NF4", BITSANDBYTES, "bitsandbytes", failure="not installed")]
    write_rows(rows, tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_a_line_with_an_unknown_key_is_refused_by_its_number(tmp_path: Path) -> None:
    good = asdict(peers()[0])
    (tmp_path / "rows.jsonl").write_text(json.dumps(good) + "\n\n" + json.dumps({**good, "speed": 3}) + "\n")
    with pytest.raises(ValueError, match=r"rows.jsonl:3: unknown keys speed"):
        read_rows(tmp_path / "rows.jsonl")


def test_table_has_a_cell_for_every_column_and_groups_in_order() -> None:
    rows = [*peers(), row("int4 gptq", OURS, "gguf", 3_400_000, 0.01)]
    text = markdown(rows)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    heads = [text.index(f"**{name}**") for name in GROUPS if f"**{name}**" in text]
    assert heads == sorted(heads) and len(heads) == 3
    assert (
        "| int4 gptq | gguf | 3,401,000 | 3,400,000 | 5.44 | 15.562 | 1.0040 ± 0.0010 | 0.01000 ± 0.00020 |"
        in text
    )


def test_a_failed_row_says_why_and_keeps_the_table_whole() -> None:
    text = markdown([*peers(), Row("Q4_1", LLAMA_CPP, "gguf", failure="first | line\nsecond")])
    line = next(line for line in text.splitlines() if "Q4_1" in line)
    assert "not measured: first / line second" in line
    assert line.count("|") == len(COLUMNS) + 1
    assert text.splitlines().index(line) > text.splitlines().index(
        next(item for item in text.splitlines() if "Q8_0" in item)
    )


def test_first_aim_is_met_at_half_the_divergence_and_missed_above_it() -> None:
    met = verdicts([*peers(), row("a", OURS, "gguf", 3_500_000, 0.0098)])[0]
    assert met.met is True and "0.49 ± 0.01" in met.text
    assert verdicts([*peers(), row("a", OURS, "gguf", 3_500_000, 0.0101)])[0].met is False


def test_one_byte_too_many_does_not_count() -> None:
    first = verdicts([*peers(), row("a", OURS, "gguf", 3_500_001, 0.001)])[0]
    assert first.met is None and "3,500,000" in first.text


def test_second_aim_names_every_four_bit_peer_and_no_other() -> None:
    lines = verdicts(
        [*peers(), row("a", OURS, "gguf", 3_400_000, 0.013), row("a", OURS, "openvino", 3_400_000, 0.011)]
    )
    told = {item.text: item.met for item in lines[1:]}
    assert len(told) == 4
    assert not any("Q8_0" in text for text in told)
    against_nncf = next(text for text in told if "INT4_SYM GPTQ" in text)
    assert (
        told[against_nncf] is True and "a in openvino (0.01100)" in against_nncf
    )  # in the peer's own engine


def test_perplexity_above_half_a_percent_is_a_miss() -> None:
    assert verdicts([*peers(), row("a", OURS, "gguf", 3_400_000, 0.01, ratio=1.0051)])[-1].met is False
    last = verdicts([*peers(), row("a", OURS, "gguf", 3_400_000, 0.01, ratio=1.0049)])[-1]
    assert last.met is True and "+0.49 ± 0.10 %" in last.text
    assert "- met: At Q4_0's bytes" in markdown_verdicts([last])


def test_without_the_reference_rows_nothing_is_claimed() -> None:
    assert [item.met for item in verdicts([row("a", OURS, "gguf", 1, 0.0)])] == [None, None]


def test_best_within_looks_at_one_engine_and_at_our_rows() -> None:
    rows = [
        *peers(),
        row("a", OURS, "gguf", 100, 0.5),
        row("b", OURS, "onnx", 100, 0.1),
        row("c", OURS, "gguf", 90, 0.4),
    ]
    assert best_within(rows, 100, "gguf") == rows[-1]
    assert best_within(rows, 89, "gguf") is None


def test_frontier_leaves_out_what_fewer_bytes_beat() -> None:
    small, worse, large = (
        row(str(kl), OURS, "gguf", size, kl) for size, kl in ((3, 0.2), (4, 0.3), (5, 0.1))
    )
    assert frontier([large, worse, small]) == [small, large]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        *peers(),
        row("a", OURS, "gguf", 3_400_000, 0.01),
        row("bf16", OURS, "gguf", 11_000_000, 0.0, float_weights=True),
    ]
    plot([*rows, Row("x", NNCF, "openvino", failure="no")], tmp_path / "picture.png")
    content = (tmp_path / "picture.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_page_keeps_the_text_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "quality.md"
    page.write_text(f"above\n\n{page_table.begin('quality.py')}\nold\n{page_table.END}\n\nbelow\n")
    page_table.insert("new\n", page, "quality.py")
    assert (
        page.read_text() == f"above\n\n{page_table.begin('quality.py')}\n\nnew\n\n{page_table.END}\n\nbelow\n"
    )
    page.write_text("no markers\n")
    with pytest.raises(ValueError, match="must hold the line"):
        page_table.insert("new", page, "quality.py")
    assert page.read_text() == "no markers\n"


def test_the_command_makes_page_and_picture_from_kept_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    write_rows([*peers(), row("a", OURS, "gguf", 3_400_000, 0.009)], tmp_path / "rows.jsonl")
    code = quality.main(["--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "page.md")])
    assert code == 0
    assert "met: At no more bytes than Q4_K_M + imatrix" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "page.png").is_file()
    assert "| Q8_0 |" in capsys.readouterr().out


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(tmp_path, tmp_path, tmp_path, 1024, tmp_path, tmp_path, tmp_path, tmp_path, 1)


def test_jobs_have_names_of_their_own_and_targets_that_exist(material: Material) -> None:
    jobs = [*peer_jobs(material), *our_jobs(material, {"Q4_0": 4.9}, ("rtn", "gptq"), ("gptq",))]
    assert len({(job.group, job.name) for job in jobs}) == len(jobs)
    assert len({quality_run._slug(job) for job in jobs}) == len(jobs)
    for job in jobs:
        module, _, function = job.target.partition(":")
        __import__(module)
        # what run_isolated will call it with: neither an argument too few nor one too many
        inspect.signature(getattr(sys.modules[module], function)).bind(**job.arguments, out="folder")
    mix = next(job for job in jobs if job.name == "mix gptq, Q4_0's bytes")
    assert mix.arguments["options"]["target-bits"] == "4.900000"


def test_a_missing_package_and_a_failing_child_become_rows(material: Material, tmp_path: Path) -> None:
    bench = SimpleNamespace(folder=tmp_path, material=material)
    job = Job("x", NNCF, ("openvino",), "quality_nncf:compress", {}, "no_such_package")
    assert [item.failure for item in quality_run._run(job, bench)] == [
        "no_such_package is not installed (make peers)"
    ]
    failing = replace(job, package="numpy", target="quality_llama:quantize", arguments={"file_type": "Q4_0"})
    (found,) = quality_run._run(failing, bench)
    assert "quality_llama:quantize raised TypeError" in found.failure and "\n" not in found.failure


def test_imatrix_entries_end_with_an_empty_one_and_hold_the_values(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    np.savez(tmp_path / "imatrix.npz", **{"blk.0.attn_q.weight": np.arange(3.0)})
    entries, _ = quality_llama._imatrix_entries(tmp_path / "imatrix.npz")
    assert len(entries) == 2 and not entries[1].name
    assert entries[0].name == b"blk.0.attn_q.weight" and entries[0].size == 3
    assert [entries[0].data[index] for index in range(3)] == [0.0, 1.0, 2.0]


def test_a_tied_embedding_in_onnx_weighs_once_and_rotary_tables_nothing(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    first, second, table = (onnx.TensorProto(name=name) for name in ("embedding", "head", "cos_cache"))
    for item in (first, second):
        item.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", "800")):
            item.external_data.add(key=key, value=value)
    norm = onnx.numpy_helper.from_array(np.ones(5, np.float32), "norm")
    table.CopyFrom(onnx.numpy_helper.from_array(np.ones(50, np.float32), "cos_cache"))
    graph = onnx.helper.make_graph([], "g", [], [], initializer=[first, second, table, norm])
    (tmp_path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    (tmp_path / "model.onnx.data").write_bytes(bytes(800))
    assert sizes("onnx", str(tmp_path / "model.onnx"))["weight_bytes"] == 820
    assert sizes("onnx", str(tmp_path))["file_bytes"] == 800 + (tmp_path / "model.onnx").stat().st_size
