"""Read the weights of an OpenVINO encoder back from the graph alone, with every operation rounded to the element type it has.

A product is called what its MatMul is called; that it stands at the right place is what the comparison of states with the float
model proves.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from edgeport.errors import ArtifactError
from edgeport.export.verify.openvino_values import evaluate, is_weight, root_constant

Floats = npt.NDArray[np.float32]


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """(name in the checkpoint, float32 values) of every weight. Raises ArtifactError for a file that cannot be read."""
    try:
        model = ov.Core().read_model(path)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} cannot be read by OpenVINO: {str(error).strip().splitlines()[-1]}"
        ) from error
    names = {node.get_name(): node.get_friendly_name() for node in model.get_ordered_ops()}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "MatMul":
            yield f"{node.get_friendly_name()}.weight", _values(node, 1)
        elif kind in ("Gather", "Slice") and _is_table(node):
            yield names[root_constant(_source(node, 0))], _values(node, 0)
        elif kind in ("Multiply", "Add"):
            for at in (0, 1):
                if is_weight(_source(node, at)) and not is_weight(node):
                    yield names[root_constant(_source(node, at))], _values(node, at).reshape(-1)


def _is_table(node: Any) -> bool:
    """A row of a weight is taken, not of a shape."""
    source = _source(node, 0)
    return is_weight(source) and len(source.output(0).get_shape()) == 2


def _values(node: Any, at: int) -> Floats:
    return evaluate(_source(node, at), node.get_friendly_name())


def _source(node: Any, at: int) -> Any:
    return node.input(at).get_source_output().get_node()
