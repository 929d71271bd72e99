"""Recipes: everything wrong is told at once, patterns and snapping decide a tensor's scheme."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeport.errors import RecipeError
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.recipe import load_recipe, parse, parse_scheme, recipe_names, snap
from edgeport.scheme import TensorScheme

ROLES = {"linear": "int4-g32", "embedding": "int8-g32", "head": "int8-g32"}
DOWN = TensorSpec("model.layers.1.mlp.down_proj.weight", "linear", (64, 128))


def test_every_shipped_recipe_loads_and_survives_a_round_trip() -> None:
    assert recipe_names() == [
        "bf16",
        "distill-int8",
        "draft",
        "edge",
        "edge-pruned",
        "f16",
        "int2",
        "int4",
        "int8",
    ]
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.description
        assert parse(recipe.to_document(), default_name="other") == recipe


def test_int4_keeps_embedding_and_head_at_eight_bits() -> None:
    recipe = load_recipe("int4")
    assert [str(scheme) for scheme in (recipe.linear, recipe.embedding, recipe.head)] == [
        "int4-g32",
        "int8-g32",
        "int8-g32",
    ]


def test_all_errors_at_once_with_the_nearest_names() -> None:
    document = {
        "linaer": "int4",
        "embedding": "int3",
        "head": "int4-g48",
        "solver": "magic",
        "overrides": {"*.down_proj.weight": "fp8"},
    }
    with pytest.raises(RecipeError) as caught:
        parse(document, default_name="mine")
    message = caught.value.message
    for told in (
        "recipe 'mine'",
        "unknown key 'linaer', did you mean 'linear'?",
        "missing key 'linear'",
        "unknown scheme 'int3'",
        "unknown scheme 'int4-g48'",
        "unknown solver 'magic'",
        "overrides.*.down_proj.weight",
        "unknown scheme 'fp8'",
    ):
        assert told in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("overrides", ["int8", ["int8"], 5])
def test_overrides_must_be_a_table(overrides: object) -> None:
    with pytest.raises(RecipeError, match="overrides"):
        parse({**ROLES, "overrides": overrides}, default_name="mine")


def test_the_first_matching_override_wins() -> None:
    overrides = {"*.0.*": "f16", "*.down_proj.*": "int8-g64", "*": "bf16"}
    recipe = parse({**ROLES, "overrides": overrides}, default_name="mine")
    assert recipe.scheme_for(DOWN) == TensorScheme("int8", 64)
    assert recipe.scheme_for(
        TensorSpec("model.layers.0.mlp.down_proj.weight", "linear", (64, 128))
    ) == TensorScheme("f16")
    assert recipe.scheme_for(TensorSpec("lm_head.weight", "head", (512, 64))) == TensorScheme("bf16")
    norm = TensorSpec("model.norm.weight", "norm", (64,))
    assert recipe.scheme_for(norm) == TensorScheme("f32"), "norms stay in float32 whatever a pattern says"


@pytest.mark.parametrize(
    ("asked", "in_features", "got"),
    [
        ("int4-g128", 256, "int4-g128"),
        ("int4-g128", 192, "int4-g64"),
        ("int4-g128", 96, "int4-g32"),
        ("int8-g64", 96, "int8-g32"),
        ("int4-g32", 48, "f16"),
        ("int8-g128", 100, "f16"),
        ("bf16", 48, "bf16"),
    ],
)
def test_snapping_to_what_divides_the_rows(asked: str, in_features: int, got: str) -> None:
    assert str(snap(parse_scheme(asked), in_features)) == got


def test_a_scheme_without_a_block_is_in_blocks_of_32() -> None:
    assert parse_scheme("int4") == TensorScheme("int4", 32)
    assert parse_scheme("int8") == TensorScheme("int8", 32)


@pytest.mark.parametrize(
    "text", ["", "int4-g", "int4-g0", "int4-g16", "int3", "INT4", "f16-g32", "int4-g32 "]
)
def test_other_texts_are_no_schemes(text: str) -> None:
    with pytest.raises(RecipeError, match="unknown scheme"):
        parse_scheme(text)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'int44' \(did you mean int4\?\)") as caught:
        load_recipe("int44")
    assert caught.value.hint is not None and "int2, int4, int8, or a .toml file" in caught.value.hint


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(str(tmp_path / "absent.toml"))
    for name, content in (("broken", b"linear = "), ("latin", b'description = "\xe9"')):
        path = tmp_path / f"{name}.toml"
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=rf"{name}\.toml"):
            load_recipe(str(path))


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "tall.toml"
    path.write_text(
        'linear = "int4-g128"\nembedding = "f16"\nhead = "int8"\n[overrides]\n"*.v_proj.weight" = "int8"\n'
    )
    recipe = load_recipe(str(path))
    assert recipe.name == "tall" and recipe.linear.block == 128
    assert recipe.overrides == {"*.v_proj.weight": TensorScheme("int8", 32)}
