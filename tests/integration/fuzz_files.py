"""Damaged and hostile copies of model files, drawn with a fixed seed; and one child process that shows them to the commands.

`run_cases` is the child's side: it opens each file as a user would, through `edgeport inspect`, `plan` and `export --dry-run`, with
a limit on its memory and a clock on each case.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MEMORY_BYTES = 384 << 20
"""What all cases of a batch may take beyond the interpreter with its modules; files have less than 1 MB."""
CASE_S = 5.0
HUGE = (-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 7, 2**31, 2**63, 10**30, -(10**18), 0.5, 1e308, float("nan"), float("inf"), "", "text", "5", [], [1],
    {}, {"a": 1}, [[]], [None], "\ud83d\ude00" * 50, "../../../etc/passwd", "a" * 5000,
)  # fmt: skip
DEEP = 100_000


class TooSlow(BaseException):
    """No Exception: what handles a file's faults must not take it for one."""


def byte_damages(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bits flipped, files cut, runs of zeros and of ones, most of them near the beginning."""
    draw = random.Random(seed)
    for number in range(count):
        reach = min(len(content), (512, 4096, len(content))[number % 3])
        at = draw.randrange(max(1, reach))
        kind = draw.randrange(5)
        if kind == 0:
            yield content[:at]
        elif kind == 1:
            yield content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        elif kind == 2:
            length = draw.choice((1, 4, 8, 64))
            yield content[:at] + draw.choice((b"\0", b"\xff")) * length + content[at + length :]
        elif kind == 3:  # a number of 8 bytes where a length or an offset may lie
            value = struct.pack("<Q", draw.choice(HUGE) % 2**64)
            yield content[:at] + value + content[at + 8 :]
        else:
            length = draw.randrange(1, 64)
            yield content[:at] + content[at + length :]


def json_damages(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Values exchanged for odd ones, keys lost and doubled, nesting without end, and damaged bytes."""
    draw, document = random.Random(seed), json.loads(content)
    yield b"[" * DEEP
    yield b'{"a":' * DEEP
    yield content[:-1] + b',"x":' + b"[" * DEEP + b"]" * DEEP + b"}"
    yield b'{"x": ' + b"9" * 5000 + b"}"
    yield content[:-1] + b"," + content.strip()[1:]  # every name twice
    for _ in range(count):
        if draw.random() < 0.25:
            yield next(byte_damages(content, 1, draw.randrange(2**32)))
            continue
        changed = json.loads(content)
        for _ in range(draw.choice((1, 1, 2, 5))):
            _change_one(changed, draw)
        yield json.dumps(changed).encode()
    assert isinstance(document, dict)


def _change_one(document: Any, draw: random.Random) -> None:
    """One place of the tree, most often near its root."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw.choice(keys[:40])
        child = place[key]
        if not isinstance(child, dict | list) or not child or draw.random() < 0.4:
            break
        place = child
    if isinstance(place, dict) and draw.random() < 0.2:
        del place[key]
    else:
        place[key] = copy.deepcopy(draw.choice(ODD_VALUES))  # a shared one would come to hold itself


def safetensors_damages(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The header's JSON damaged as JSON, its entries made to overlap, to lie outside and to be huge; and its length."""
    draw = random.Random(seed)
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]

    def whole(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data

    for value in HUGE:
        yield (value % 2**64).to_bytes(8, "little") + content[8:]
    yield whole(
        b'{"x":{"dtype":"F32","shape":[' + b"1152921504606846975," * 20_000 + b'1],"data_offsets":[0,4]}}'
    )
    yield whole(b'{"x":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}')
    yield whole(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,NaN]}}')
    for item in json_damages(header, count // 3, seed):
        yield whole(item)
    for _ in range(count // 3):
        document = json.loads(header)
        name = draw.choice([key for key in document if key != "__metadata__"])
        entry = document[name]
        field = draw.choice(("shape", "data_offsets", "dtype"))
        if field == "dtype":
            entry[field] = draw.choice(("F7", "F64", "I8", "BOOL", "F8_E4M3", "", 5, None))
        else:
            entry[field][draw.randrange(len(entry[field]))] = draw.choice(HUGE)
        yield whole(json.dumps(document).encode())
    yield from byte_damages(content[: 8 + length], count - 2 * (count // 3), seed + 1)


def gguf_damages(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Counts, lengths, sizes, types and offsets of the header set to extremes; and damaged bytes."""
    draw = random.Random(seed)
    for at in (8, 16):
        for value in HUGE:
            yield content[:at] + struct.pack("<Q", value % 2**64) + content[at + 8 :]
    for version in (0, 1, 2, 4, 99, 2**31):
        yield content[:4] + struct.pack("<I", version) + content[8:]
    for key in (b".block_count", b".context_length", b".embedding_length", b".attention.head_count"):
        at = content.find(key) + len(key) + 4
        for size in (0, 2**31 - 1, 2**32 - 1):
            yield content[:at] + struct.pack("<I", size) + content[at + 4 :]
    marks = (
        b"tokenizer.ggml.tokens",
        b"token_embd.weight",
        b"blk.0.",
        b"general.architecture",
        b".block_count",
        b".context_length",
    )
    for _ in range(count // 2):
        mark = draw.choice(marks)
        # of a key: its type, then its value, a number or a length; of a tensor: sizes, type, offset
        at = content.find(mark) + len(mark) + draw.choice((4, 4, 8, 12, 20, draw.randrange(-8, 40)))
        yield content[:at] + struct.pack("<Q", draw.choice(HUGE) % 2**64) + content[at + 8 :]
    yield from byte_damages(content, count - count // 2, seed)


def xml_damages(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Attributes exchanged for odd ones, elements within elements without end; and damaged bytes."""
    draw = random.Random(seed)
    yield b"<net>" * DEEP
    yield b'<net version="11"><layers>' + b'<layer id="0" type="Const">' * DEEP
    yield b"<!DOCTYPE net [" + b"".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "aaaa"}">'.encode() for n in range(9)
    ) + b'] ><net version="11">&a8;</net>'  # fmt: skip
    for _ in range(count // 2):
        at = content.find(b'="', draw.randrange(len(content) - 200))
        end = content.find(b'"', at + 2)
        odd = draw.choice((b"", b"-1", b"99999999999999999999", b"1e999", b"NaN", b"?", b"9" * 5000, b"text"))
        yield content[: at + 2] + odd + content[end:]
    yield from byte_damages(content, count - count // 2, seed)


DAMAGES: dict[str, Callable[[bytes, int, int], Iterator[bytes]]] = {
    "config.json": json_damages,
    "tokenizer.json": json_damages,
    "tokenizer_config.json": json_damages,
    "generation_config.json": json_damages,
    "genai_config.json": json_damages,
    "model.safetensors.index.json": json_damages,
    "model.safetensors": safetensors_damages,
    "model.gguf": gguf_damages,
    "model.onnx": byte_damages,
    "openvino_model.xml": xml_damages,
}


def run_cases(folder: str, work: dict[str, list[list[str]]], count: int, seed: int) -> dict[str, Any]:
    """In a child: every damaged copy of each file of `work` through its commands.

    Returns the exit codes by file, what went wrong with which case, and how long the slowest took.
    """
    from edgeport.cli import main

    codes: dict[str, dict[str, int]] = {file: {} for file in work}
    faults, slowest = [], 0.0
    for words in (words for commands in work.values() for words in commands):
        _outcome(main, words)  # imports what it needs, before memory is counted
    _limit_memory()
    for file, commands in work.items():
        path = Path(folder) / file
        content = path.read_bytes()
        for number, damaged in enumerate(DAMAGES[file](content, count, seed)):
            path.write_bytes(damaged)
            for words in commands:
                begin = time.perf_counter()
                code, told = _outcome(main, words)
                slowest = max(slowest, time.perf_counter() - begin)
                codes[file][str(code)] = codes[file].get(str(code), 0) + 1
                if code not in (0, 1, 2) or "this is a bug" in told:
                    faults.append(f"{file}, case {number}, {words[0]}: {code}: {told[-300:]}")
        path.write_bytes(content)
    return {"codes": codes, "faults": faults, "slowest_s": slowest}


def _outcome(main: Callable[[list[str]], int], words: list[str]) -> tuple[int, str]:
    """Exit code and what was said on stderr; 99 for a case that takes too long."""
    told = io.StringIO()
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, CASE_S, CASE_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
            code = main(words)
    except TooSlow as error:
        return 99, str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return code, told.getvalue()


def _too_slow(*_: object) -> None:
    raise TooSlow(f"longer than {CASE_S} s")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
