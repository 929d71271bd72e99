"""Groups of tensors, and a recipe that carries an assignment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeport.export.mix.groups import assign, tensor_groups, with_assignment
from edgeport.export.recipe import load_recipe, parse
from edgeport.export.source import open_source
from edgeport.scheme import TensorScheme

INT4, INT8 = TensorScheme("int4", 32), TensorScheme("int8", 32)


def test_every_matrix_is_in_exactly_one_group(tiny_qwen2_dir: Path) -> None:
    spec = open_source(str(tiny_qwen2_dir)).spec
    matrices = sorted(item.name for item in spec.tensors() if len(item.shape) == 2)
    for per_tensor in (False, True):
        groups = tensor_groups(spec, load_recipe("int4"), (INT8, INT4), per_tensor=per_tensor)
        assert sorted(item.name for group in groups for item in group.tensors) == matrices
        assert all(group.schemes == (INT4, INT8) for group in groups)
        assert [group.layer for group in groups] == sorted(group.layer for group in groups)
    assert len(groups) == len(matrices)


def test_groups_are_what_engines_fuse(tiny_llama_dir: Path) -> None:
    spec = open_source(str(tiny_llama_dir)).spec
    groups = tensor_groups(spec, load_recipe("int4"), (INT4, INT8))
    assert [group.name for group in groups[:5]] == [
        "embedding", "layers.0.qkv", "layers.0.o", "layers.0.gate_up", "layers.0.down",
    ]  # fmt: skip
    assert [len(group.tensors) for group in groups[:5]] == [1, 3, 1, 2, 1]


def test_what_the_user_decided_is_in_no_group(tiny_llama_dir: Path) -> None:
    spec = open_source(str(tiny_llama_dir)).spec
    recipe = replace(load_recipe("int4"), overrides={"*.down_proj.weight": TensorScheme("f16")})
    names = [item.name for group in tensor_groups(spec, recipe, (INT4, INT8)) for item in group.tensors]
    assert not any("down_proj" in name for name in names)
    assert len(names) == 1 + 2 * 6


def test_recipe_gives_each_tensor_what_was_assigned(tiny_qwen2_dir: Path) -> None:
    spec = open_source(str(tiny_qwen2_dir)).spec
    recipe = replace(load_recipe("int4"), overrides={"*.1.*.up_proj.weight": TensorScheme("bf16")})
    groups = tensor_groups(spec, recipe, (INT4, INT8))
    assignment = assign(groups, [group.schemes[at % 2] for at, group in enumerate(groups)])
    mixed = with_assignment(recipe, assignment, spec)
    again = parse(mixed.to_document(), default_name="again")
    for item in spec.tensors():
        if item.name in assignment:
            assert mixed.scheme_for(item) == again.scheme_for(item) == assignment[item.name]
        else:
            assert mixed.scheme_for(item) == recipe.scheme_for(item)
    # Only what differs from the tensor's role is written down.
    assert len(mixed.overrides) < 1 + len(assignment)


def test_names_with_pattern_characters_mean_themselves(tiny_llama_dir: Path) -> None:
    spec = open_source(str(tiny_llama_dir)).spec
    recipe, item = load_recipe("int4"), next(spec.layer_tensors(0))
    odd = replace(item, name="layers[0].w*", role="linear", shape=(32, 32))
    mixed = replace(
        recipe,
        overrides=dict(with_assignment(recipe, {odd.name: INT8}, _OneTensor(odd)).overrides),  # type: ignore[arg-type]
    )
    assert mixed.scheme_for(odd) == INT8
    assert mixed.scheme_for(replace(odd, name="layers0.wide")) == INT4


class _OneTensor:
    def __init__(self, item: object) -> None:
        self.item = item

    def tensors(self) -> list[object]:
        return [self.item]
