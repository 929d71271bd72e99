"""Depth: the layer that changes the hidden state least goes, and the rest is scored again, until enough have gone.

Block influence (Men et al. 2024, "ShortGPT", arXiv:2403.03853, section 3): 1 - cos(hidden before, hidden after), the mean over
the tokens of the calibration text. ShortGPT scores once; here each drop changes what the layers after it see, so each is
followed by another pass over the layers that are left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.calibrate.run import LayerView, embed_windows
from edgeport.export.calibrate.state import PassState
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.prune.kept import Kept
from edgeport.export.prune.method import Change, Scoring, resolve
from edgeport.export.prune.settings import Amount

if TYPE_CHECKING:
    from edgeport.progress import Stage

_RANDOM_STREAM = 4
_INFLUENCE = "influence"


class Depth:
    def change(self, spec: DecoderSpec, wanted: Amount, snap: int) -> Change:
        del snap
        target = resolve("layers", wanted, spec.layers)
        layers = max(int(target + 0.5), 1)
        notes = (f"layers: {layers} instead of {target:g}",) if layers != target else ()
        return Change({"num_hidden_layers": layers}, notes)

    def keep(self, scoring: Scoring, kept: Kept) -> Kept:
        count = scoring.spec.layers
        importance = scoring.settings.importance
        if importance == "last":
            return replace(kept, layers=kept.layers[:count])
        if importance == "random":
            order = np.argsort(scoring.random(_RANDOM_STREAM, 0, len(kept.layers)), kind="stable")
            return replace(kept, layers=tuple(sorted(kept.layers[number] for number in order[:count])))
        return replace(kept, layers=drop_least_influential(scoring, kept.layers, count))


def drop_least_influential(scoring: Scoring, layers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """`count` of `layers`; each drop is followed by a pass over the rest. Resumes layer by layer."""
    drops = range(len(layers), count, -1)
    with scoring.progress.stage("block influence", total=sum(drops)) as stage:
        model = None
        for left in drops:
            if model is None:
                model = LayerwiseModel(
                    scoring.source, n_ctx=scoring.text.windows.shape[1], threads=scoring.threads
                )
            influence = block_influence(scoring, model, layers, stage)
            dropped = int(np.argmin(influence))
            layers = layers[:dropped] + layers[dropped + 1 :]
            assert len(layers) == left - 1
    return layers


def block_influence(
    scoring: Scoring, model: LayerwiseModel, layers: tuple[int, ...], stage: Stage
) -> npt.NDArray[np.float64]:
    """[layers], of a model that has only these layers of the source."""
    fingerprint = {
        "source": scoring.source.fingerprint(),
        "text": scoring.text.sha256,
        "threads": scoring.threads,
        "layers": list(layers),
    }
    state = PassState(scoring.work / f"influence-{len(layers):04d}", fingerprint)
    if state.layers_done < 0:
        embed_windows(model, scoring.text, state, {}, [{}])
    stage.advance(state.layers_done)
    while state.layers_done < len(layers):
        _score_next(model, state, layers[state.layers_done])
        stage.advance()
    results = state.results()
    return np.array(
        [results.tensor(f"{number}.{_INFLUENCE}")[0] for number in range(len(layers))], dtype=np.float64
    )


def _score_next(model: LayerwiseModel, state: PassState, layer: int) -> None:
    number = state.layers_done
    before = state.hidden()[0]  # [windows, n_ctx, hidden_size]
    path = state.directory / "after.npy"
    after = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=before.shape)
    with model.layer(layer) as module:
        LayerView(model, layer, module, before).fill(after)
    influence = np.mean([_change(*pair) for pair in zip(before, after, strict=True)])

    def fill(target: npt.NDArray[np.float32]) -> None:
        target[0] = after

    keep = {f"{number}.{_INFLUENCE}": np.array([influence], dtype=np.float32)}
    state.advance((1, *before.shape), fill, keep)
    path.unlink()


def _change(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> float:
    """Mean of 1 - cos over the tokens of one window; both [n_ctx, hidden_size]."""
    first, second = before.astype(np.float64), after.astype(np.float64)
    product = (first * second).sum(axis=1)
    lengths = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return float(np.mean(1 - product / np.maximum(lengths, 1e-30)))


DEPTH = Depth()
