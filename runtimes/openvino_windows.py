"""Sliding windows of a paged OpenVINO decoder, compared with what its file says.

The transformation to paged attention learns a layer's window from the shape of its mask. A mask in a spelling that the installed
OpenVINO does not know becomes no window at all, without a word, so that every token past the window would be wrong. Edgeport's files
name their windows in rt_info; others are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import openvino
from edgeport.errors import UnsupportedModel

RT_INFO = ["edgeport", "attention_windows"]
"""Tokens each layer sees, 0 for all: "16,16,0"."""
_OPERATOR = "PagedAttentionExtension"
_WINDOW_INPUT = 10  # PagedAttentionExtension: ..., 9 scale, 10 sliding_window, 11 alibi_slopes
_ARITHMETIC: Mapping[str, Callable[[list[int]], int]] = {
    "Convert": lambda values: values[0],
    "Squeeze": lambda values: values[0],
    "Unsqueeze": lambda values: values[0],
    "Multiply": lambda values: values[0] * values[1],
    "Subtract": lambda values: values[0] - values[1],
}
"""What the transformation computes a window with."""


def check_windows(model: Any) -> None:
    """model: after the transformation. Raises UnsupportedModel where its windows are not those the file names."""
    if not model.has_rt_info(RT_INFO):
        return
    named = [int(number) for number in str(model.get_rt_info(RT_INFO).value).split(",")]
    found = paged_windows(model)
    if named != found:
        raise UnsupportedModel(
            f"OpenVINO {openvino.get_version()} gives this model's layers the attention windows {found}, its file says {named}"
        )


def paged_windows(model: Any) -> list[int]:
    """Of every paged attention in order, 0 where it sees all tokens. Raises UnsupportedModel for one that is computed in a run."""
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == _OPERATOR]
    return [_number(node.input_value(_WINDOW_INPUT).get_node()) for node in nodes]


def _number(node: Any) -> int:
    kind = node.get_type_name()
    if kind == "Constant":
        return int(node.data.reshape(-1)[0])
    if kind not in _ARITHMETIC:
        raise UnsupportedModel(f"an attention window comes from {kind}, not from constants")
    return _ARITHMETIC[kind]([_number(port.get_source_output().get_node()) for port in node.inputs()])
