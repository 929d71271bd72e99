"""Two sides in turns: the statistics on timings made by construction, the words of a side, and two real engines side by side."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgeport.errors import ArtifactError, RuntimeFailure, UsageError
from edgeport.manifest import from_json, read_manifest, to_json
from edgeport.runtimes.bench.live_child import LiveChild
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.paired_ratio import Block, paired_ratio
from edgeport.runtimes.bench.side import parse_side
from edgeport.runtimes.bench.side_by_side import Comparison, compare_sides

BLOCKS = 10


def blocks(
    seed: int, *, a_rate: float = 1.0, count: int = BLOCKS, noise: float = 0.05, drift: float = 0.0
) -> list[Block]:
    """A B B A on one clock: a repetition takes 10 ms, with noise; `drift` is how much slower each next one is."""
    generator = random.Random(seed)
    step = 0

    def repetition(rate: float) -> int:
        nonlocal step
        step += 1
        return round(1e7 / rate * (1 + drift) ** step * generator.lognormvariate(0, noise))

    found = []
    for _ in range(count):
        first, second, third, fourth = (repetition(rate) for rate in (a_rate, 1.0, 1.0, a_rate))
        found.append(Block((first, fourth), (second, third)))
    return found


def test_equal_sides_show_no_difference_as_often_as_promised() -> None:
    seen = [paired_ratio(blocks(seed)).verdict for seed in range(200)]
    assert seen.count("no difference seen") >= 184, "95 % of 200, less two and a half standard errors"


def test_the_interval_holds_the_true_ratio() -> None:
    found = [paired_ratio(blocks(seed, a_rate=1.1)) for seed in range(100)]
    assert sum(item.low < 1.1 < item.high for item in found) >= 90
    assert sum(item.verdict == "faster" for item in found) >= 95
    slower = paired_ratio(blocks(1, a_rate=0.8))
    assert slower.verdict == "slower"
    assert slower.low < 0.8 < slower.high < 1


def test_a_machine_that_gets_slower_favours_neither_side() -> None:
    drifting = [paired_ratio(blocks(seed, noise=0.01, drift=0.02)).verdict for seed in range(100)]
    assert drifting.count("no difference seen") >= 90


def test_a_side_that_always_came_second_would_have_lost() -> None:
    """What the order protects from: the same timings read as A B A B show a difference that is not there."""
    generator = random.Random(0)
    ticks = [1e7 * 1.02**step * generator.lognormvariate(0, 0.002) for step in range(4 * BLOCKS)]
    turns = [ticks[at : at + 4] for at in range(0, len(ticks), 4)]
    naive = [Block((round(one), round(three)), (round(two), round(four))) for one, two, three, four in turns]
    assert paired_ratio(naive).verdict == "faster"
    turned = [Block((round(one), round(four)), (round(two), round(three))) for one, two, three, four in turns]
    assert paired_ratio(turned).ratio == pytest.approx(1.0, abs=0.002)


def test_equal_times_and_too_few_blocks() -> None:
    exact = paired_ratio([Block((10, 10), (12, 12))] * 6)
    assert (exact.ratio, exact.low, exact.high) == pytest.approx((1.2, 1.2, 1.2))
    with pytest.raises(UsageError, match="5 blocks say nothing"):
        paired_ratio(blocks(0, count=5))


def test_a_side_is_a_folder_a_format_or_settings(packed_dir: Path) -> None:
    manifest = read_manifest(packed_dir)
    folder = parse_side(str(packed_dir), None, format_name="onnx", threads=2)
    assert (folder.format, folder.threads, folder.entry_point) == (
        "onnx",
        2,
        manifest.container("onnx").entry_point,
    )
    named = parse_side("openvino", packed_dir, threads=1)
    assert (named.format, named.label, named.weights_id) == ("openvino", "openvino", manifest.weights_id)
    both = parse_side(f"{packed_dir},gguf,threads=1,key_cache=q8_0,context_length=96", None)
    assert (both.format, both.threads, both.context_length) == ("gguf", 1, 96)
    assert both.settings.key_cache == "q8_0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tflite", "neither an artifact folder nor a container"),
        ("gguf,onnx", "more than one"),
        ("gguf,speed=9", "no setting is called 'speed'"),
        ("gguf,threads=many", "threads is 'many'"),
        ("onnx,flash_attention=on", "not a setting of onnx"),
        ("context_length=short", "context_length is 'short'"),
    ],
)
def test_a_side_nobody_understands_is_refused(packed_dir: Path, text: str, said: str) -> None:
    with pytest.raises((UsageError, ArtifactError), match=said):
        parse_side(text, packed_dir)
    with pytest.raises(UsageError, match="names no artifact folder"):
        parse_side("gguf", None)


def test_two_engines_take_turns(packed_dir: Path) -> None:
    a, b = (parse_side(name, packed_dir, threads=1) for name in ("gguf", "gguf,memory_map=off"))
    found = compare_sides(a, b, Workload(n_prompt=16, n_gen=8), blocks=6)
    assert [item.test for item in found.tests] == ["pp16", "tg8"]
    for item in found.tests:
        assert len(item.a_samples_ns) == len(item.b_samples_ns) == 12
        assert item.found.low <= item.found.ratio <= item.found.high
        assert 0.2 < item.found.ratio < 5
        assert item.found.ratio == pytest.approx(item.a_tokens_per_s / item.b_tokens_per_s, rel=1.0)
    for side in (found.a, found.b):
        assert len(side.load_ms) == 2
        assert min(side.load_ms) > 0
        assert side.roofline is not None
        assert side.roofline.kv_bytes_per_token == 256 * 4.5, (
            "two layers, two heads of 16, keys and values, float16"
        )
    assert from_json(Comparison, to_json(found)) == found
    assert not [note for note in found.notes if "weights" in note]


def test_a_side_that_does_not_open_is_an_error(packed_dir: Path, tmp_path: Path) -> None:
    a = parse_side("gguf", packed_dir, threads=1)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(a.path.read_bytes()[:1000])
    arguments = {"format_name": "gguf", "path": str(broken), "workload": to_json(Workload()), "options": {}}
    with LiveChild("edgeport.runtimes.bench.side_child:repetitions", arguments) as child:
        with pytest.raises(RuntimeFailure, match="broken.gguf"):
            child.next()
        assert child.is_finished
    with pytest.raises(UsageError, match="do not fit the context of 32"):
        compare_sides(a, parse_side("gguf,context_length=32", packed_dir), Workload(n_prompt=64, n_gen=8))


def test_too_few_blocks_are_refused_before_anything_is_opened(packed_dir: Path) -> None:
    a = parse_side("gguf", packed_dir, threads=1)
    with pytest.raises(UsageError, match="5 blocks"):
        compare_sides(a, a, Workload(n_prompt=8, n_gen=2), blocks=5)
