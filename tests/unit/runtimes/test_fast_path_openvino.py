"""Which kernels OpenVINO takes: products of one matrix, written as IR and compiled by it in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as operators

from edgeport.errors import RuntimeFailure
from edgeport.runtimes.fast_path.check import check_fast_path
from edgeport.runtimes.fast_path.openvino_kernels import Product, attention_kernel, product_kernel
from edgeport.runtimes.fast_path.openvino_model import weights_by_product
from edgeport.runtimes.fast_path.report import ContainerReport

K, N, GROUP = 64, 48, 32
CODE_BYTES, SCALE_BYTES = K * N // 2, 2 * N * K // GROUP


class Builder:
    """Keeps the arrays: a constant over a numpy array does not own its memory."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def constant(self, values: Any) -> Any:
        self._kept.append(values)
        tensor = values if isinstance(values, openvino.Tensor) else openvino.Tensor(values)
        return operators.constant(tensor)

    def codes(self, kind: str) -> Any:
        """[N, K] weights: codes in groups of 32 along K, times float16 scales."""
        tensor = openvino.Tensor(getattr(openvino.Type, kind), [N, K // GROUP, GROUP])
        tensor.data[:] = np.ones(tensor.data.shape, tensor.data.dtype)
        scales = self.constant(np.full((N, K // GROUP, 1), 0.01, np.float16))
        product = operators.multiply(operators.convert(self.constant(tensor), "f16"), scales)
        return operators.convert(operators.reshape(product, np.array([N, K]), False), "f32")

    def save(self, path: Path, weight: Any) -> Path:
        x = operators.parameter([-1, -1, K], np.float32, name="x")
        x.output(0).set_names({"x"})
        openvino.save_model(
            openvino.Model([operators.matmul(x, weight, False, True)], [x], "m"), path, compress_to_fp16=False
        )
        return path


@pytest.fixture
def build() -> Builder:
    return Builder()


def check(path: Path) -> ContainerReport:
    return check_fast_path(path).containers[0]


@pytest.mark.parametrize("kind", ["u4", "i8"])
def test_codes_unpacked_in_the_kernel_are_fast(kind: str, build: Builder, tmp_path: Path) -> None:
    report = check(build.save(tmp_path / "openvino_model.xml", build.codes(kind)))
    (group,) = report.groups
    assert report.fast and group.tensor_type == kind and kind in group.kernel and "executed" in group.evidence
    assert group.size_bytes == (CODE_BYTES if kind == "u4" else 2 * CODE_BYTES) + SCALE_BYTES


def test_codes_hidden_behind_another_operation_are_slow(build: Builder, tmp_path: Path) -> None:
    """What a graph surgeon would write: a second scale per input feature, after the weights were unpacked."""
    second = build.constant(np.linspace(1, 2, K, dtype=np.float32).reshape(1, K))
    path = build.save(tmp_path / "openvino_model.xml", operators.multiply(build.codes("u4"), second))
    report = check(path)
    (group,) = report.groups
    assert not report.fast and group.tensor_type == "u4" and "expanded at load" in group.kernel
    assert "f32" in group.cause and "constants: f32" in group.evidence
    assert group.size_bytes == CODE_BYTES + SCALE_BYTES + 4 * K, "as the file stores it"


def test_a_type_the_product_does_not_take_is_slow(build: Builder, tmp_path: Path) -> None:
    report = check(build.save(tmp_path / "openvino_model.xml", build.codes("f8e4m3")))
    (group,) = report.groups
    assert (
        not report.fast and "expanded on every call" in group.kernel and "constants: none" in group.evidence
    )


def test_no_kernel_at_all_is_an_error_with_a_cure_or_slow(build: Builder, tmp_path: Path) -> None:
    """The engine refuses 2-bit weights for some shapes and thread counts, and leaves their product out for others."""
    file = build.save(tmp_path / "openvino_model.xml", build.codes("u2"))
    try:
        report = check(file)
    except RuntimeFailure as error:
        assert "primitive descriptor" in error.message
        assert error.hint is not None and "u4" in error.hint
    else:
        assert not report.fast and "u4" in report.groups[0].cure


def test_float_weights_have_nothing_to_unpack(build: Builder, tmp_path: Path) -> None:
    weight = operators.convert(build.constant(np.ones((N, K), np.float16)), "f32")
    report = check(build.save(tmp_path / "openvino_model.xml", weight))
    (group,) = report.groups
    assert report.fast and (group.tensor_type, group.size_bytes) == ("f16", 2 * N * K)


def test_products_of_activations_have_no_weights(build: Builder, tmp_path: Path) -> None:
    x = operators.parameter([-1, -1, K], np.float32, name="x")
    scores = operators.matmul(x, x, False, True)
    model = openvino.Model([operators.matmul(scores, x, False, False)], [x], "m")
    assert weights_by_product(model) == {}


def test_verdicts_of_primitives() -> None:
    assert product_kernel(Product("u4", "u4", "brgemm_avx2_f32", executed=True)).fast
    reference = product_kernel(Product("u4", "u4", "ref_any_f32", executed=True))
    assert not reference.fast and "reference implementation" in reference.cause
    left_out = product_kernel(Product("u2", "u2", "undef_bf16", executed=False))
    assert not left_out.fast and left_out.name.startswith("none") and "2-bit" in left_out.cure
    assert attention_kernel(fused=True).fast and not attention_kernel(fused=False).fast
