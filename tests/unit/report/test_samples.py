"""The texts side by side on the page: all of them, escaped, and nothing where nothing was generated."""

from __future__ import annotations

from typing import Any

from edgeport.runtimes.report.samples import samples


def _record(*texts: str) -> dict[str, Any]:
    return {
        "generation": {
            "samples": [
                {"prompt": f"prompt {n}", "source": "a < b", "container": text, "first_divergence": 0}
                for n, text in enumerate(texts)
            ]
        }
    }


def test_every_format_stands_beside_the_source() -> None:
    page = samples({"gguf": _record("one", "two"), "onnx": _record("<script>", "four")})
    for text in ("prompt 0", "prompt 1", "a &lt; b", "one", "two", "&lt;script&gt;", "four"):
        assert text in page
    assert page.count("<details>") == 2 and "<script>" not in page


def test_an_equal_text_is_not_repeated() -> None:
    record = _record("a < b")
    record["generation"]["samples"][0]["first_divergence"] = None
    page = samples({"gguf": record})
    assert "(the same)" in page and page.count("a &lt; b") == 1


def test_broken_or_older_records_have_none() -> None:
    assert samples({}) == ""
    assert (
        samples({"gguf": None, "onnx": {"generation": None}, "openvino": {"generation": {"samples": 3}}})
        == ""
    )
    assert samples({"gguf": {"generation": {"samples": ["no object"]}}}) == ""
