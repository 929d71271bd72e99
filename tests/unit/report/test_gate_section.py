"""The gate on the report page: lines, path, and nothing invented where nothing was judged."""

from __future__ import annotations

import re

from edgeport.runtimes.report.gate import gate_section

LINE = {
    "container": "gguf",
    "name": "perplexity",
    "measured": 0.0612,
    "measured_text": "+6.12 %",
    "threshold_text": "at most +5 %",
    "verdict": "fail",
    "detail": "13.5, source <12.7>",
}
STEP = {
    "rung": "gptaq",
    "recipe": "int4",
    "solver": "gptaq",
    "verdict": "pass",
    "mean_kl_divergence": 0.012345,
}


def test_lines_and_path_are_shown_and_escaped() -> None:
    gate = {"verdict": "pass", "rung": "gptaq", "lines": [LINE], "ladder": [STEP]}
    page = re.sub(r"<[^>]+>", "|", str(gate_section(gate))).replace("||", "|")
    assert "Verdict: pass. Published from the rung: gptaq." in page
    assert "gguf|perplexity|+6.12 %|at most +5 %|fail|13.5, source &lt;12.7&gt;" in page
    assert "gptaq|int4|gptaq|||0.01235|pass|" in page


def test_an_export_that_was_not_judged_says_so() -> None:
    assert "Not judged." in str(gate_section({}))
    told = str(gate_section({"verdict": "not judged", "reason": "baseline not sane"}))
    assert "Verdict: not judged. baseline not sane." in told
