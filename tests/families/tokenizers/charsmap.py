"""A precompiled character map as SentencePiece writes it into a Unigram tokenizer: a small cut of its `nmt_nfkc` rules.

Layout (sentencepiece's normalizer.cc and darts-clone, as read by spm_precompiled and llama.cpp): the size of a double array in
bytes, the double array of 32-bit units, then the replacements, each ended by a zero byte. A unit holds its label in bits 0 to 7,
"has a value" in bit 8 and the XOR offset of its children from bit 10 on; a value unit has bit 31 set.
"""

from __future__ import annotations

import base64
import struct
import unicodedata
from functools import lru_cache

Trie = dict[int, "Trie"]
_VALUE = 0  # the label of a value: no text holds a zero byte
_BLOCK = 256

_REMOVED = [*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]
_SPACES = [
    0x09,
    0x0A,
    0x0C,
    0x0D,
    0x85,
    0x1680,
    0x200B,
    0x200E,
    0x200F,
    0x2028,
    0x2029,
    0x2581,
    0xFEFF,
    0xFFFD,
]
_COMPATIBLE = [
    *range(0xA0, 0x100),
    *range(0x2000, 0x20A0),
    *range(0x2100, 0x2190),
    0x3000,
    *range(0xFB00, 0xFB07),
    *range(0xFF01, 0xFFA0),
]
_COMPOSED = [*range(0xC0, 0x250), *range(0x1EA0, 0x1EFA)]


def rules() -> dict[str, str]:
    """Text -> replacement: control characters vanish, spaces become one kind, NFKC, and letters with accents are composed."""
    found = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in _COMPATIBLE}
    found |= {unicodedata.normalize("NFD", chr(code)): chr(code) for code in _COMPOSED}
    found = {text: target for text, target in found.items() if text != target}
    return found | {chr(code): "" for code in _REMOVED} | {chr(code): " " for code in _SPACES}


@lru_cache(maxsize=1)
def charsmap() -> str:
    """The rules as tokenizer.json holds them: base64 of the binary form."""
    replacements = bytearray()
    trie: Trie = {}
    for text, target in sorted(rules().items()):
        node = trie
        for byte in text.encode():
            node = node.setdefault(byte, {})
        node[_VALUE] = {len(replacements): {}}
        replacements += target.encode() + b"\0"
    units = _double_array(trie)
    blob = struct.pack(f"<{len(units)}I", *units)
    return base64.b64encode(struct.pack("<I", len(blob)) + blob + bytes(replacements)).decode()


def _double_array(trie: Trie) -> list[int]:
    """Every node gets a base of its own; its child with label l lies at base ^ l."""
    units = [0] * _BLOCK
    used = {0}
    bases: set[int] = set()
    waiting = [(0, trie)]
    while waiting:
        position, node = waiting.pop()
        base = _free_base(list(node), used, bases)
        bases.add(base)
        while len(units) <= base | (_BLOCK - 1):
            units += [0] * _BLOCK
        units[position] |= (position ^ base) << 10 | (_VALUE in node) << 8
        for label, child in node.items():
            at = base ^ label
            used.add(at)
            if label == _VALUE:
                units[at] = 1 << 31 | next(iter(child))
            else:
                units[at] = label
                waiting.append((at, child))
    return units


def _free_base(labels: list[int], used: set[int], bases: set[int]) -> int:
    base = 1
    while base in bases or any(base ^ label in used for label in labels):
        base += 1
    return base
