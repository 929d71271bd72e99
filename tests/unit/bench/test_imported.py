"""Files of other tools, written by hand from their documented fields, and every output read back."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.bench.imported import read_results
from edgeport.runtimes.bench.result_line import ResultLine
from edgeport.runtimes.bench.result_output import result_text

# tools/llama-bench/README.md: an object of `-o json`
LLAMA_BENCH: dict[str, Any] = {
    "build_commit": "8cf427ff", "build_number": 5163, "cpu_info": "Cortex-A76", "gpu_info": "", "backends": "CPU",
    "model_filename": "models/m.gguf", "model_type": "qwen2 0.5B Q4_0", "model_size": 352000000, "model_n_params": 494032768,
    "n_batch": 2048, "n_ubatch": 512, "n_threads": 4, "type_k": "f16", "type_v": "f16", "n_gpu_layers": -1, "use_mmap": True,
    "n_prompt": 512, "n_gen": 0, "n_depth": 0, "test_time": "2026-11-20T11:58:50Z",
    "avg_ns": 2000000000, "stddev_ns": 14142136, "avg_ts": 256.01, "stddev_ts": 1.81,
    "samples_ns": [1990000000, 2010000000], "samples_ts": [257.286, 254.726],
}  # fmt: skip
LLAMA_BENCH_TG = LLAMA_BENCH | {"n_prompt": 0, "n_gen": 128, "n_depth": 64, "avg_ts": 21.5, "stddev_ts": 0.2}

# benchmark/python/metrics.py: BenchmarkRecord.to_dict; `default=str` writes numpy's numbers as text
GENAI: dict[str, Any] = {
    "config": {
        "backend": "onnxruntime-genai", "batch_size": "2.0", "precision": "int4", "warmup_runs": 1, "measured_runs": 10,
        "model_info": {"full_name": "phi"}, "prompt_length": "16.0", "tokens_generated": "256.0", "max_length": "272.0",
    },
    "metadata": {"device": "cpu", "package_name": "onnxruntime-genai", "package_version": "0.18.0"},
    "metrics": {
        "prompt_processing_throughput_tps": 310.5, "prompt_processing_latency_ms": 6.4,
        "token_generation_throughput_tps": 41.25, "token_generation_latency_ms": 48.5, "wall_clock_throughput_tps": 43.0,
    },
    "trigger_date": "2026-11-20 12:00:00",
}  # fmt: skip

# tools/llm_bench/llm_bench_utils/output_json.py
LLM_BENCH: dict[str, Any] = {
    "metadata": {
        "model": "tiny-llama", "framework": "ov(genai)", "device": "CPU", "precision": "INT4", "num_beams": 1, "batch_size": 1,
    },
    "perfdata": {
        "compile_time": 1.5,
        "results": [
            {"iteration": index, "input_size": 32, "infer_count": 65, "output_size": 65, "latency": 22.0, "prompt_idx": 0,
             "first_latency": first, "second_avg_latency": second, "start": "2026-11-20T12:00:00", "result_md5": ["x"]}
            for index, (first, second) in enumerate([(900.0, 90.0), (160.0, 20.0), (200.0, 25.0)])
        ],
        "results_averaged": {"first_latency": 180.0},
    },
}  # fmt: skip


def write(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_llama_bench_json_and_jsonl_are_read_alike(tmp_path: Path) -> None:
    records = [LLAMA_BENCH, LLAMA_BENCH_TG]
    found = read_results(write(tmp_path / "a.json", records))
    lines = read_results(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records))))
    assert [replace(line, source_file="") for line in found] == [
        replace(line, source_file="") for line in lines
    ]
    assert [(line.source, line.test, line.avg_ts, line.stddev_ts) for line in found] == [
        ("llama-bench", "pp512", 256.01, 1.81), ("llama-bench", "tg128 @ d64", 21.5, 0.2),
    ]  # fmt: skip
    assert found[0].samples_ns == (1990000000, 2010000000)
    assert (found[0].build_commit, found[0].format, found[0].n_threads) == ("llama.cpp 8cf427ff", "gguf", 4)


def test_llama_bench_csv_has_text_in_every_field(tmp_path: Path) -> None:
    out = io.StringIO()
    names = [key for key in LLAMA_BENCH if not key.startswith("samples")]
    writer = csv.DictWriter(out, names, quoting=csv.QUOTE_ALL, extrasaction="ignore")
    writer.writeheader()
    writer.writerows([LLAMA_BENCH, LLAMA_BENCH_TG])
    found = read_results(write(tmp_path / "a.csv", out.getvalue()))
    expected = read_results(write(tmp_path / "a.json", [LLAMA_BENCH, LLAMA_BENCH_TG]))
    assert [replace(line, source_file="a.json") for line in found] == [
        replace(line, samples_ns=(), samples_ts=()) for line in expected
    ]


def test_both_in_one_figure_keep_their_name(tmp_path: Path) -> None:
    both = LLAMA_BENCH | {"n_gen": 128}
    assert read_results(write(tmp_path / "a.json", [both]))[0].test == "pp512+tg128"


def test_genai_json_gives_a_prompt_and_a_generation(tmp_path: Path) -> None:
    found = read_results(write(tmp_path / "g.json", [GENAI]))
    assert [(line.test, line.avg_ts, line.stddev_ts, line.n_sequences) for line in found] == [
        ("pp16", 310.5, None, 2), ("tg256 @ d16", 41.25, None, 2),
    ]  # fmt: skip
    assert (found[0].source, found[0].build_commit) == (
        "onnxruntime-genai benchmark",
        "onnxruntime-genai 0.18.0",
    )
    assert found[0].model_type == "phi int4"


def test_genai_csv_old_and_new(tmp_path: Path) -> None:
    new = "config.batch_size,config.prompt_length,config.tokens_generated,metrics.prompt_processing_throughput_tps,"
    new += "metrics.token_generation_throughput_tps\n1.0,16.0,256.0,310.5,41.25\n"
    old = "Batch Size,Prompt Length,Tokens Generated,Prompt Processing Throughput (tps),Token Generation Throughput (tps)\n"
    old += "1,16,256,310.5,41.25\n"
    for text in (new, old):
        found = read_results(write(tmp_path / "g.csv", text))
        assert [(line.test, line.avg_ts) for line in found] == [("pp16", 310.5), ("tg256 @ d16", 41.25)]


def test_llm_bench_leaves_its_warm_up_out(tmp_path: Path) -> None:
    prompt, decode = read_results(write(tmp_path / "o.json", LLM_BENCH))
    rates = [32 / 0.160, 32 / 0.200]
    assert (prompt.test, decode.test) == ("pp32", "tg64 @ d32")
    assert prompt.avg_ts == pytest.approx(statistics.mean(rates))
    assert prompt.stddev_ts == pytest.approx(statistics.stdev(rates))
    assert "time to the first token" in prompt.note
    assert decode.avg_ts == pytest.approx((50 + 40) / 2)
    assert decode.samples_ns == (64 * 20_000_000, 64 * 25_000_000)


def test_llm_bench_csv_says_the_same(tmp_path: Path) -> None:
    header = "iteration,model,framework,device,input_size,infer_count,output_size,1st_latency(ms),2nd_avg_latency(ms),"
    header += "precision,prompt_idx,batch_size,start\n"
    rows = "".join(
        f"{name},tiny-llama,ov(genai),CPU,32,65,65,{first},{second},INT4,0,1,2026-11-20T12:00:00\n"
        for name, first, second in [
            (0, 900, 90),
            (1, 160, 20),
            (2, 200, 25),
            ("avg", 180, 22.5),
            ("mini", 160, 20),
        ]
    )
    explained = "input_size: Input token size,,,,,,,,,,,,\n"
    found = read_results(write(tmp_path / "o.csv", header + rows + explained))
    expected = read_results(write(tmp_path / "o.json", LLM_BENCH))
    assert [replace(line, source_file="o.json") for line in found] == list(expected)
    unmeasured = rows.replace("160,20", "NA,NA").replace("200,25", "NA,NA")
    with pytest.raises(UsageError, match="holds no results"):
        read_results(write(tmp_path / "na.csv", header + unmeasured))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '[{"tokens": 5}]', '{"perfdata": 1, "metadata": {}}', "a,b\n1,2\n", "not a result", '{"n_prompt": 5',
     '[{"n_prompt": "x", "n_gen": 1, "avg_ts": 1, "stddev_ts": 0}]', "\x00\x01"],
)  # fmt: skip
def test_other_files_are_refused_with_what_was_expected(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_results(write(tmp_path / "other.json", text))
    assert "llama-bench (n_prompt, n_gen, avg_ts, stddev_ts)" in str(caught.value.hint)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_results(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UsageError, match="cannot be read"):
        read_results(tmp_path / "binary")


OURS = ResultLine(
    source="edgeport", test="tg8", n_prompt=0, n_gen=8, avg_ts=12.345, stddev_ts=0.5, avg_ns=648_000_000, stddev_ns=1000,
    samples_ns=(647_999_000, 648_001_000), samples_ts=(12.34, 12.35), build_commit="llama.cpp 0.3.36", cpu_info="Cortex-A76",
    backends="CPU", model_filename="gguf/m.gguf", model_type='a "b", c|d', model_size=352 << 20, model_n_params=494_032_768,
    n_threads=4, context_length=136, test_time="2026-11-20T12:00:00Z", format="gguf", weights_id="3fa9",
)  # fmt: skip


@pytest.mark.parametrize("output", ["jsonl", "csv"])
def test_what_is_written_can_be_read_again(tmp_path: Path, output: str) -> None:
    refused = replace(
        OURS, test="tg8", n_sequences=4, avg_ts=None, stddev_ts=None, note="one session holds one sequence"
    )
    text = result_text([OURS, refused], output)
    again = read_results(write(tmp_path / f"ours.{output}", text))
    expected = (
        [OURS, refused]
        if output == "jsonl"
        else [replace(line, samples_ns=(), samples_ts=()) for line in (OURS, refused)]
    )
    assert [replace(line, source_file="") for line in again] == expected


def test_csv_has_llama_benchs_columns_first() -> None:
    header, row = result_text([OURS], "csv").splitlines()
    assert header.startswith(
        "build_commit,cpu_info,gpu_info,backends,model_filename,model_type,model_size,model_n_params,"
    )
    assert dict(zip(header.split(","), next(csv.reader([row])), strict=True))["avg_ts"] == "12.345"


def test_tables_show_where_a_row_came_from_and_warn_of_another_machine(tmp_path: Path) -> None:
    imported = read_results(write(tmp_path / "theirs.json", [LLAMA_BENCH_TG]))
    table = result_text([OURS, *imported], "table")
    assert "llama-bench (theirs.json)" in table
    assert "12.35 ± 0.50" in table or "12.34 ± 0.50" in table
    assert "different machines" not in table
    other = replace(imported[0], cpu_info="Xeon")
    assert "not to be compared: Cortex-A76, Xeon" in result_text([OURS, other], "table")
    unknown = replace(imported[0], cpu_info=None)
    assert "one that its file does not name" in result_text([OURS, unknown], "table")
    markdown = result_text([OURS, *imported], "md").splitlines()
    assert {line.replace("\\|", "").count("|") for line in markdown} == {markdown[0].count("|")}
    assert "source" not in result_text([OURS], "table").splitlines()[0]
