"""A crash, a hang and an exception in the child each become one readable error here."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest

from edgeport.errors import MissingExtra, RuntimeFailure
from edgeport.runtimes.isolation import run_isolated

HERE = __name__


def echo(**arguments: Any) -> dict[str, Any]:
    print("an engine that writes to stdout")
    return {"process_id": os.getpid(), **arguments}


def abort() -> None:
    os.write(2, b"GGML_ASSERT(n > 0) failed\n")
    os.abort()


def leave() -> None:
    os._exit(7)


def sleep() -> None:
    sys.stderr.write("still loading\n")
    sys.stderr.flush()
    time.sleep(60)


def raise_value_error() -> None:
    raise ValueError("no such layer")


def raise_missing_extra() -> None:
    raise MissingExtra("openvino is not installed", hint="pip install 'edgeport[openvino]'")


def return_an_object() -> object:
    return object()


def test_the_result_comes_back_from_another_process() -> None:
    result = run_isolated(f"{HERE}:echo", {"name": "é", "sizes": [1, 2.5, None]})
    assert result["name"] == "é" and result["sizes"] == [1, 2.5, None]
    assert result["process_id"] != os.getpid()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("abort", "SIGABRT"),
        ("abort", "GGML_ASSERT"),
        ("leave", "exit code 7"),
        ("raise_value_error", "ValueError: no such layer"),
        ("return_an_object", "not JSON serializable"),
    ],
)
def test_whatever_goes_wrong_is_a_runtime_failure(function: str, expected: str) -> None:
    with pytest.raises(RuntimeFailure, match=expected):
        run_isolated(f"{HERE}:{function}", {})


def test_a_hanging_child_is_stopped_and_its_last_words_kept() -> None:
    begin = time.monotonic()
    with pytest.raises(RuntimeFailure, match="did not finish within 2 s[^|]*| still loading"):
        run_isolated(f"{HERE}:sleep", {}, timeout_s=2)
    assert time.monotonic() - begin < 20


def test_our_own_errors_keep_their_type_and_hint() -> None:
    with pytest.raises(MissingExtra) as caught:
        run_isolated(f"{HERE}:raise_missing_extra", {})
    assert caught.value.hint == "pip install 'edgeport[openvino]'"
