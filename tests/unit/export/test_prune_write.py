"""The folder that is written: shards, and nothing over what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.prune import write
from edgeport.export.prune.plan import plan_prune
from edgeport.export.prune.run import prune, split_text
from edgeport.export.prune.settings import settings_from
from edgeport.export.safetensors_file import TensorPlan
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS

TEXT = CalibrationText(np.arange(3 * 32, dtype=np.int64).reshape(3, 32), "counted", "counted")


def cut(model: Path, out: Path) -> None:
    plan = plan_prune(open_source(str(model)), settings_from({"ffn": 0.5, "reconstruct": False}))
    prune(plan, TEXT, out, work=out.with_name("work"), threads=1, progress=NO_PROGRESS)


def test_shards_fill_in_order_and_a_large_tensor_has_its_own() -> None:
    plan = [TensorPlan(name, "F32", (rows, 1)) for name, rows in (("a", 3), ("b", 2), ("c", 9), ("d", 1))]
    shards = write.plan_shards(plan, shard_bytes=20)
    assert [[item.name for item in shard] for shard in shards] == [["a", "b"], ["c"], ["d"]]


def test_a_sharded_folder_is_the_same_model(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    cut(tiny_llama_dir, tmp_path / "one")
    plan_shards = write.plan_shards
    monkeypatch.setattr(write, "plan_shards", lambda plan: plan_shards(plan, shard_bytes=40_000))
    cut(tiny_llama_dir, tmp_path / "many")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 2
    assert open_source(str(tmp_path / "many")).spec == open_source(str(tmp_path / "one")).spec
    one, many = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).state_dict()
        for name in ("one", "many")
    )
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)


def test_what_is_there_is_not_written_over(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        cut(tiny_llama_dir, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_held_windows_are_not_chosen_on() -> None:
    windows = np.arange(20 * 4, dtype=np.int64).reshape(20, 4)
    chosen_on, held = split_text(CalibrationText(windows, "counted", "counted"))
    assert held[:, 0].tolist() == [12, 44, 76]
    assert sorted([*chosen_on.windows[:, 0], *held[:, 0]]) == windows[:, 0].tolist()
    with pytest.raises(UsageError, match="needs two windows"):
        split_text(CalibrationText(windows[:1], "counted", "counted"))
