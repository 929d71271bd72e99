"""What an encoder is stored as, by the names of recipes, and how near to the float model it has to stay.

`bf16`, `f16`, `int8` and `int4` are the recipes of the decoders: weights alone, in the portable scheme, the same codes in every
container. `int8-dynamic` and `int8-static` also compute in INT8: one scale per row of a weight, activations in 8 bits with a
scale from each batch or from calibration. They are ONNX Runtime's, and in the onnx container only. The product after GELU keeps
the portable codes, whose kernel scales activations per block: its input has a few large values, and one scale for all of it cost
most (on all-MiniLM-L6-v2 the mean cosine of tokens was 0.990 with it, 0.994 without).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from edgeport.devices.profile import DeviceProfile
from edgeport.errors import RecipeError
from edgeport.export.quantize.solvers import AUTO
from edgeport.export.recipe import Recipe, load_recipe
from edgeport.scheme import TensorScheme

Activations = Literal["float", "dynamic", "static"]
THRESHOLDS = {32: 0.999, 16: 0.999, 8: 0.99, 4: 0.95}
"""Least mean cosine with the float model, by the bits of the linear layers: of tokens, and of pooled vectors."""
AFTER_GELU = "encoder.layer.*[0-9].output.dense.weight"
_INTEGER_COMPUTE: dict[str, tuple[Activations, str]] = {
    "int8-dynamic": (
        "dynamic",
        "INT8 weights per row and INT8 activations, scaled anew for each batch (ONNX Runtime)",
    ),
    "int8-static": (
        "static",
        "INT8 weights per row and INT8 activations, scaled by calibration (ONNX Runtime)",
    ),
}


@dataclass(frozen=True, slots=True)
class EncoderRecipe:
    """storage: what the checkpoint holds of each tensor; linears of a recipe that computes in INT8 are in float32 there, and
    get their codes per row when the container is written."""

    name: str
    description: str
    storage: Recipe
    activations: Activations

    @property
    def threshold(self) -> float:
        return THRESHOLDS[8 if self.activations != "float" else self.storage.linear.bits]

    def to_document(self) -> dict[str, Any]:
        return {
            **self.storage.to_document(),
            "name": self.name,
            "description": self.description,
            "activations": self.activations,
            "threshold": self.threshold,
        }


def encoder_recipe_names() -> tuple[str, ...]:
    return ("bf16", "f16", "int8", "int4", *_INTEGER_COMPUTE)


def load_encoder_recipe(name: str | None, profile: DeviceProfile) -> EncoderRecipe:
    """By name or TOML file; None takes 16 bits where the device's own recipe has them, else INT8: small encoders lose more at
    INT4 than they save. Raises RecipeError for a recipe that does more than round weights."""
    if name is None:
        name = profile.recipe if profile.recipe in ("bf16", "f16") else "int8"
    if name in _INTEGER_COMPUTE:
        activations, description = _INTEGER_COMPUTE[name]
        portable = load_recipe("int8")
        full = TensorScheme("f32")
        overrides = {AFTER_GELU: portable.linear}
        storage = replace(portable, name=name, linear=full, head=full, overrides=overrides)
        return EncoderRecipe(name, description, storage, activations)
    recipe = load_recipe(name)
    problems = []
    if recipe.prepares:
        problems.append("it prunes or recovers, which encoders have no path for")
    if recipe.solver not in ("rtn", AUTO):
        problems.append(f"its solver {recipe.solver!r} calibrates on a decoder")
    if recipe.linear.bits not in THRESHOLDS:
        problems.append(f"{recipe.linear} has no threshold for encoders")
    if problems:
        raise RecipeError(
            f"recipe {recipe.name!r} is not for encoders: {'; '.join(problems)}",
            hint=f"recipes for encoders are {', '.join(encoder_recipe_names())}",
        )
    return EncoderRecipe(recipe.name, recipe.description, replace(recipe, solver="rtn"), "float")
