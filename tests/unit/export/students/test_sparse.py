"""Training a sparse model: its zeros stay exactly, the rest learns."""

from __future__ import annotations

from pathlib import Path

import pytest
from short_training import fine_tuned

from edgeport.errors import UsageError
from edgeport.export.recover.sparse import SparseStudent
from edgeport.export.recover.student import StudentSettings
from edgeport.export.source import SourceModel, open_source
from edgeport.export.sparsify.plan import plan_sparsify
from edgeport.export.sparsify.run import sparsify
from edgeport.export.sparsify.settings import SparsifySettings
from edgeport.progress import NO_PROGRESS


@pytest.fixture(scope="module")
def sparse(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    folder = tmp_path_factory.mktemp("sparse")
    plan = plan_sparsify(open_source(str(tiny_llama_dir)), SparsifySettings("magnitude", pattern="2:4"))
    sparsify(plan, None, folder / "out", work=folder / "work", threads=1, progress=NO_PROGRESS)
    return open_source(str(folder / "out"))


@pytest.mark.parametrize("kind", ["sparse", "full"])
def test_zeros_stay_where_they_are(kind: str, sparse: SourceModel, tmp_path: Path) -> None:
    """`full` is the counter-check: without the mask they do not stay."""
    report = fine_tuned(sparse, tmp_path, kind=kind, weight_decay=0.01)
    assert report.best_step > 0 and report.held_cross_entropy_after < report.held_cross_entropy_before - 0.1
    trained = open_source(str(tmp_path / "out"))
    linears = [item.name for item in sparse.spec.tensors() if item.role == "linear"]
    same = [((trained.tensor(name) == 0) == (sparse.tensor(name) == 0)).all() for name in linears]
    assert all(same) if kind == "sparse" else not any(same)
    assert any((trained.tensor(name) != sparse.tensor(name)).any() for name in linears)


def test_a_dense_model_is_refused(tiny_llama_dir: Path) -> None:
    with pytest.raises(UsageError, match="no zeros"):
        SparseStudent(open_source(str(tiny_llama_dir)), StudentSettings())
