"""Run the lm-evaluation-harness with artifacts as one of its models.

    python -m edgeport.export.evaluate.harness --model edgeport --model_args artifact=DIR,runtime=onnx --tasks ...

The harness looks models up by name in a registry. Releases with plugins (after 0.4.13) fill it from the entry points
`lm_eval.models`, where edgeport has its line, so that `lm_eval --model edgeport` works as it is. Up to 0.4.13 nothing is
read from outside, hence this module: it enters the name, then hands over to the harness's own command line.
"""

from __future__ import annotations

import sys

from edgeport.lazy import missing_extra

MODEL_NAME = "edgeport"
MODEL_TARGET = "edgeport.export.evaluate.harness_model:EdgeportModel"


def register() -> None:
    """Enter `edgeport` into the harness's registry; the model is imported when asked for. Raises MissingExtra."""
    with missing_extra("harness", purpose="lm_eval --model edgeport"):
        import lm_eval.models  # noqa: F401  # its own models first: it enters them only into an empty registry
        from lm_eval.api.registry import model_registry
    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target=MODEL_TARGET)


def main() -> None:
    """The harness's own command line, `sys.argv` unchanged."""
    from edgeport.errors import EdgeportError

    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except EdgeportError as error:
        hint = f"  {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"edgeport: {error.message}\n{hint}")
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
