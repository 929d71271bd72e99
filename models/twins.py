"""Random-weight twins of real shapes, for speed and memory work where no model can be downloaded.

    python models/twins.py --list
    python models/twins.py qwen2.5-0.5b -o some/folder [--layers N] [--seed S] [--tiny]

A twin has the published configuration, tensor names and sizes in bf16 safetensors, and random weights. It is written
tensor by tensor, so that even the 8B twin needs a few tens of MB of memory. Needs numpy and ml_dtypes only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # models/ is a folder of scripts, not a package

from twin_tokenizer import WrittenTokenizer, write_tokenizer

SHAPES = Path(__file__).resolve().parent / "twins"
SHARD_BYTES = 2 * 1024**3
CHUNK_ELEMENTS = 4 * 1024**2
WEIGHT_STD = 0.02
NORM_STD = 0.02
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY_LAYERS = 2
TINY_VOCAB_MULTIPLE = 64


@dataclass(frozen=True)
class Twin:
    """A published shape: where it comes from, its tokenizer's kind, and its config.json."""

    name: str
    source: str
    tokenizer_kind: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Tensor:
    """One bf16 tensor to be written: values are `mean` plus noise of `std`."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float

    @property
    def size_bytes(self) -> int:
        return 2 * math.prod(self.shape)


def twin_names() -> list[str]:
    return sorted(file.stem for file in SHAPES.glob("*.json"))


def load_twin(name: str) -> Twin:
    """The shape of that name; ValueError names the known ones."""
    file = SHAPES / f"{name}.json"
    if name not in twin_names():
        raise ValueError(f"unknown twin {name!r}; known: {', '.join(twin_names())}")
    document = json.loads(file.read_text(encoding="utf-8"))
    return Twin(name, document["source"], document["tokenizer_kind"], document["config"])


def head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def shrink(config: dict[str, Any], tokenizer_tokens: int) -> dict[str, Any]:
    """A small configuration with the family's structure: grouped heads, biases, ties, rope scaling, head size."""
    small = config | TINY | {"num_hidden_layers": TINY_LAYERS}
    small["vocab_size"] = -(-tokenizer_tokens // TINY_VOCAB_MULTIPLE) * TINY_VOCAB_MULTIPLE
    even = TINY["hidden_size"] // TINY["num_attention_heads"]
    if "head_dim" in config:
        # Qwen3's heads together are wider than the hidden size; a converter that assumes otherwise must fail here.
        wide = config["head_dim"] * config["num_attention_heads"] > config["hidden_size"]
        small["head_dim"] = 2 * even if wide else even
    return small


def written_config(twin: Twin, tokenizer: WrittenTokenizer, layers: int | None, tiny: bool) -> dict[str, Any]:
    """The published config with the ids of the tokenizer that is really there."""
    config = shrink(twin.config, tokenizer.size) if tiny else dict(twin.config)
    if layers is not None:
        config["num_hidden_layers"] = layers
    if "max_window_layers" in config:
        config["max_window_layers"] = config["num_hidden_layers"]
    bos = tokenizer.end_of_text_id if tokenizer.bos_id is None else tokenizer.bos_id
    return config | {"bos_token_id": bos, "eos_token_id": tokenizer.end_of_text_id}


def layer_tensors(config: dict[str, Any], index: int) -> Iterator[Tensor]:
    """The tensors of one decoder layer, in the order in which transformers saves them."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * head_size(config)
    keys = config["num_key_value_heads"] * head_size(config)
    prefix = f"model.layers.{index}"
    # Output projections shrink with depth, as in GPT-2's initialisation: the residual stream stays bounded.
    output_std = WEIGHT_STD / math.sqrt(2 * config["num_hidden_layers"])
    linears = {
        "self_attn.q_proj": (queries, hidden, WEIGHT_STD),
        "self_attn.k_proj": (keys, hidden, WEIGHT_STD),
        "self_attn.v_proj": (keys, hidden, WEIGHT_STD),
        "self_attn.o_proj": (hidden, queries, output_std),
        "mlp.gate_proj": (wide, hidden, WEIGHT_STD),
        "mlp.up_proj": (wide, hidden, WEIGHT_STD),
        "mlp.down_proj": (hidden, wide, output_std),
    }
    yield Tensor(f"{prefix}.input_layernorm.weight", (hidden,), 1.0, NORM_STD)
    for name, (rows, columns, std) in linears.items():
        yield Tensor(f"{prefix}.{name}.weight", (rows, columns), 0.0, std)
        if config["model_type"] == "qwen2" and name[-6:] in ("q_proj", "k_proj", "v_proj"):
            yield Tensor(f"{prefix}.{name}.bias", (rows,), 0.0, WEIGHT_STD)
    if config["model_type"] == "qwen3":
        yield Tensor(f"{prefix}.self_attn.q_norm.weight", (head_size(config),), 1.0, NORM_STD)
        yield Tensor(f"{prefix}.self_attn.k_norm.weight", (head_size(config),), 1.0, NORM_STD)
    yield Tensor(f"{prefix}.post_attention_layernorm.weight", (hidden,), 1.0, NORM_STD)


def model_tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    yield Tensor("model.embed_tokens.weight", (vocab, hidden), 0.0, WEIGHT_STD)
    for index in range(config["num_hidden_layers"]):
        yield from layer_tensors(config, index)
    yield Tensor("model.norm.weight", (hidden,), 1.0, NORM_STD)
    if not config["tie_word_embeddings"]:
        yield Tensor("lm_head.weight", (vocab, hidden), 0.0, WEIGHT_STD)


def parameter_count(name: str, layers: int | None = None) -> int:
    """Stored parameters of the full-size twin (a tied head counts once)."""
    config = load_twin(name).config
    config = config if layers is None else config | {"num_hidden_layers": layers}
    return sum(math.prod(tensor.shape) for tensor in model_tensors(config))


def plan_shards(tensors: list[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Fills shards in order; a tensor larger than a shard gets one of its own."""
    shards: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size_bytes
    return shards


def safetensors_header(tensors: list[Tensor]) -> bytes:
    """Length and JSON header; padded with spaces so that the data begins at a multiple of eight bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size_bytes],
        }
        offset += tensor.size_bytes
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_values(stream: BinaryIO, tensor: Tensor, seed: int) -> None:
    """Streams a tensor's values; they depend on seed, name and shape only, not on the other tensors."""
    digest = hashlib.sha256(f"{seed}:{tensor.name}".encode()).digest()
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "little")))
    left = math.prod(tensor.shape)
    while left:
        count = min(left, CHUNK_ELEMENTS)
        values = generator.standard_normal(count, dtype=np.float32)
        values *= np.float32(tensor.std)
        values += np.float32(tensor.mean)
        stream.write(values.astype(ml_dtypes.bfloat16).tobytes())
        left -= count


def write_shards(directory: Path, shards: list[list[Tensor]], seed: int) -> None:
    """model.safetensors, or numbered shards and their index, named as transformers names them."""
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        single = len(shards) == 1
        name = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with open(directory / name, "wb") as stream:
            stream.write(safetensors_header(tensors))
            for tensor in tensors:
                write_values(stream, tensor, seed)
        weight_map |= {tensor.name: name for tensor in tensors}
    if len(shards) > 1:
        total = sum(tensor.size_bytes for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )


def write_twin(
    name: str,
    directory: str | Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    tiny: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a twin to `directory` (which must not hold files yet) and returns it; half a twin is never left there."""
    twin, target = load_twin(name), Path(directory)
    if layers is not None and layers < 1:
        raise ValueError(f"layers must be at least 1, not {layers}")
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        tokenizer = write_tokenizer(twin.tokenizer_kind, partial, twin.config["max_position_embeddings"])
        config = written_config(twin, tokenizer, layers, tiny)
        generation = {
            "bos_token_id": config["bos_token_id"],
            "eos_token_id": [tokenizer.end_of_text_id, tokenizer.end_of_turn_id],
            "pad_token_id": tokenizer.end_of_text_id,
        }
        for file, document in (("config.json", config), ("generation_config.json", generation)):
            (partial / file).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        write_shards(partial, plan_shards(list(model_tensors(config)), shard_bytes), seed)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="one of the names that --list prints")
    parser.add_argument("-o", "--output", type=Path, help="the folder to write; it must not hold files yet")
    parser.add_argument("--layers", type=int, help="fewer (or more) decoder layers than published")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a small shape of the same structure, for tests")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        for name in twin_names():
            print(f"{name:14} {parameter_count(name) / 1e6:8.1f}M parameters  {load_twin(name).source}")
        return
    if arguments.name is None or arguments.output is None:
        parser.error("a twin's name and -o DIR are needed (or --list)")
    try:
        write_twin(
            arguments.name,
            arguments.output,
            layers=arguments.layers,
            seed=arguments.seed,
            tiny=arguments.tiny,
        )
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
