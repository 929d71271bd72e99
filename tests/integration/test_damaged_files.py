"""Damage of many kinds at many places, to every file an engine reads: refused with an error of ours, loaded, or the death of a child.

A sweep opens one damaged copy after the other in one child process, which is started again where an engine ended it. Places are
drawn with a fixed seed. What each engine sees by itself is its own affair; what edgeport promises is the error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import ArtifactError, EdgeportError, RuntimeFailure
from edgeport.runtimes.container import find_containers
from edgeport.runtimes.engines import open_session, unavailable_because
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.safe_load import check_load
from edgeport.runtimes.session import SessionOptions

FILES = [
    ("gguf", "tiny-Q4_0.gguf"),
    ("onnx", "model.onnx"),
    ("onnx", "model.onnx.data"),
    ("openvino", "openvino_model.xml"),
    ("openvino", "openvino_model.bin"),
    ("safetensors", "model.safetensors"),
    ("safetensors", "config.json"),
]
Damage = tuple[str, int, int]
"""("cut", length, 0), ("flip", byte, bit) or ("zero", first byte, count)."""


def damages(size: int, count: int, seed: int) -> Iterator[Damage]:
    """About `count` of each kind; half of the places lie in the first 8 KiB, where headers are."""
    random = np.random.default_rng(seed)
    lengths = {0, 1, 3, 4, 8, 24, size // 2, size * 9 // 10}
    lengths |= {int(length) for length in random.integers(0, size * 9 // 10, count)}
    yield from (("cut", length, 0) for length in sorted(lengths) if length < size)
    for number in range(2 * count):
        reach = min(size, 8192) if number % 2 else size
        yield "flip", int(random.integers(reach)), int(random.integers(8))
    for number in range(count):
        reach = min(size, 8192) if number % 2 else size
        yield "zero", int(random.integers(reach)), int(random.choice([4, 64, 512]))


def damaged(content: bytes, damage: Damage) -> bytes:
    kind, at, extent = damage
    if kind == "cut":
        return content[:at]
    changed = bytearray(content)
    if kind == "flip":
        changed[at] ^= 1 << extent
    else:
        changed[at : at + extent] = bytes(len(changed[at : at + extent]))
    return bytes(changed)


def put(file: Path, content: bytes) -> None:
    """As another file under the same name: one that an engine still has mapped must not change."""
    temporary = file.with_suffix(".part")
    temporary.write_bytes(content)
    os.replace(temporary, file)


def sweep_in_child(format_name: str, file: str, todo: list[Damage], outcomes: str) -> None:
    content = Path(file).read_bytes()
    with open(outcomes, "a", encoding="utf-8", buffering=1) as stream:
        try:
            for damage in todo:
                put(Path(file), damaged(content, damage))
                stream.write(f"{open_once(format_name, Path(file).parent)}\n")
        finally:
            put(Path(file), content)


def open_once(format_name: str, folder: Path) -> str:
    try:
        session = open_session(format_name, folder, SessionOptions(threads=1))
        try:
            session.feed([1, 2, 3])
        finally:
            session.close()
    except EdgeportError as error:
        return "refused: " + error.message.replace("\n", " ")
    except BaseException as error:  # noqa: BLE001 - which error it is, is what the test asks
        return f"raised {type(error).__name__}: {error}".replace("\n", " ")
    return "loaded"


def sweep(format_name: str, file: Path, todo: list[Damage], scratch: Path) -> list[str]:
    """One outcome per damage; `died` where the engine ended its process."""
    log, content = scratch / "outcomes.txt", file.read_bytes()
    log.write_text("")
    found: list[str] = []
    while len(found) < len(todo):
        arguments = {
            "format_name": format_name, "file": str(file), "todo": todo[len(found) :], "outcomes": str(log),
        }  # fmt: skip
        log.write_text("")
        try:
            run_isolated(f"{__name__}:sweep_in_child", arguments, timeout_s=300)
        except RuntimeFailure:
            found += [*log.read_text(encoding="utf-8").splitlines(), "died"]
            put(file, content)
        else:
            found += log.read_text(encoding="utf-8").splitlines()
    return found


@pytest.fixture(scope="module")
def folder(packed: Callable[[str], Path]) -> Path:
    return packed("tiny_llama_dir")


@pytest.mark.parametrize("count", [4, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("format_name", "file_name"), FILES, ids=[name for _, name in FILES])
def test_damage_is_an_error_of_ours(
    folder: Path, tmp_path: Path, format_name: str, file_name: str, count: int
) -> None:
    if reason := unavailable_because(format_name):
        pytest.skip(reason)
    file = shutil.copytree(folder / format_name, tmp_path / format_name) / file_name
    whole = ("zero", 0, 0)
    todo = [whole, *damages(file.stat().st_size, count, seed=count)]
    outcomes = dict(zip(todo, sweep(format_name, file, todo, tmp_path), strict=True))
    assert outcomes.pop(whole) == "loaded", "what is whole must load"
    foreign = {damage: text for damage, text in outcomes.items() if text.startswith("raised")}
    assert not foreign, foreign
    cut = {damage: text for damage, text in outcomes.items() if damage[0] == "cut"}
    unseen = [damage for damage, text in cut.items() if text == "loaded"]
    assert not unseen, "a file without its last tenth must not load"
    for damage in [damage for damage, text in outcomes.items() if text == "died"][:3]:
        put(file, damaged((folder / format_name / file_name).read_bytes(), damage))
        with pytest.raises(ArtifactError, match=file_name):
            check_load(find_containers(file.parent)[0], "always")
