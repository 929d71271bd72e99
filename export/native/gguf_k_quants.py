"""GGUF in llama.cpp's own schemes: K-quants and their like, written by llama.cpp from a lossless float file.

What the portable scheme gives up for being the same everywhere, these have: 3- to 6-bit types, scales of scales, more
bits where a layer needs them. They open in llama.cpp only, and their weights are not those of the other containers.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgeport.errors import UsageError
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.gguf import GgufFormat
from edgeport.export.formats.gguf_tensors import gguf_name
from edgeport.export.native.base import Forecast
from edgeport.export.native.gguf_forecast import forecast
from edgeport.export.native.gguf_imatrix import (
    IMATRIX_NAME,
    ImatrixText,
    read_importance,
    read_text,
    write_imatrix,
)
from edgeport.export.native.gguf_mix import MIXES
from edgeport.export.native.gguf_quantize import QuantizeJob, quantize_file
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import Recipe
from edgeport.export.source import SourceModel
from edgeport.runtimes.threads import thread_count
from edgeport.scheme import Kind, TensorScheme

_KINDS: dict[str, Kind] = {"F64": "f32", "F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class GgufNative:
    """One file type of llama.cpp; `label` is its name there, e.g. Q4_K_M.

    needs_statistics: its search weights errors by importance. useless_without: llama.cpp refuses to do it unweighted.
    caution: what people should know of the scheme.
    """

    label: str
    needs_statistics: bool = True
    useless_without: bool = False
    caution: str = ""

    @property
    def name(self) -> str:
        return f"gguf-{self.label.lower()}"

    @property
    def base(self) -> str:
        return "gguf"

    def reasons_against(self, source: SourceModel) -> list[str]:
        floats = [TensorScheme(kind) for kind in ("f32", "f16", "bf16")]
        return GgufFormat().reasons_against(source.spec, floats, source.directory)

    def forecast(self, spec: DecoderSpec, *, with_statistics: bool = True) -> Forecast:
        """Exact for a file written with statistics, or without them; few schemes differ."""
        found = forecast(spec, self.label, MIXES[self.label], importance=with_statistics)
        if not self.caution:
            return found
        return Forecast(found.size_bytes, found.bits_per_weight, (*found.notes, self.caution))

    def write(
        self, source: SourceModel, statistics: Path | None, directory: Path, options: WriteOptions
    ) -> Path:
        """Write `directory`/NAME-LABEL.gguf, and the importance matrix it was made with as calibration/imatrix.gguf.

        Raises UsageError without the statistics it needs, UnsupportedModel for a tokenizer llama.cpp cannot reproduce,
        RuntimeFailure when llama.cpp refuses.
        """
        if self.useless_without and statistics is None:
            raise UsageError(
                f"{self.name} needs the statistics of a calibration pass: without them its weights are noise",
                hint="give --calibration, or take gguf-q2_k or gguf-q3_k_s, which work without",
            )
        imatrix, text = None, ImatrixText()
        if statistics is not None and self.needs_statistics:
            # A folder of its own: whoever opens the container's folder looks for the one .gguf in it.
            imatrix = directory / "calibration" / IMATRIX_NAME
            imatrix.parent.mkdir()
            text = read_text(statistics)
            write_imatrix(imatrix, read_importance(statistics, source.spec), text)
        target = directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', options.name)}-{self.label}.gguf"
        # Inside the container's folder: whoever drops a half-built container drops this with it.
        with tempfile.TemporaryDirectory(dir=directory, prefix=".work-") as work:
            floats, weights_id = _float_file(source, Path(work), options)
            job = QuantizeJob(
                source=floats,
                target=target,
                file_type=int(MIXES[self.label].file_type),
                size_bytes=self.forecast(source.spec, with_statistics=imatrix is not None).size_bytes,
                threads=thread_count(None),
                imatrix=imatrix,
                metadata=self._metadata(source, weights_id, (imatrix, text)),
            )
            quantize_file(job, title=self.name, progress=options.progress)
        return target

    def _metadata(
        self, source: SourceModel, weights_id: str, importance: tuple[Path | None, ImatrixText]
    ) -> dict[str, str | int]:
        """The float file's keys are copied; those that are not true of the result any more are set anew."""
        imatrix, text = importance
        keys: dict[str, str | int] = {
            "edgeport.weights_id": "",
            "edgeport.source_weights_id": weights_id,
            "edgeport.schemes": f"{self.name} by llama.cpp" + (", with imatrix" if imatrix else ""),
        }
        if imatrix is not None:
            keys["quantize.imatrix.file"] = imatrix.name
            keys["quantize.imatrix.dataset"] = text.dataset
            keys["quantize.imatrix.entries_count"] = len(
                {gguf_name(source.spec, item.name) for item in source.spec.tensors() if item.role == "linear"}
            )
            keys["quantize.imatrix.chunks_count"] = text.windows
        return keys


def _float_file(source: SourceModel, work: Path, options: WriteOptions) -> tuple[Path, str]:
    """The source's weights in their own float types as GGUF, and their weights_id."""
    checkpoint_directory = work / "checkpoint"
    checkpoint_directory.mkdir()
    quantize(
        source, _lossless(source), checkpoint_directory, threads=thread_count(None), progress=options.progress
    )
    checkpoint = Checkpoint(checkpoint_directory, source.spec)
    return GgufFormat().write(checkpoint, work, options), checkpoint.weights_id


def _lossless(source: SourceModel) -> Recipe:
    """Every matrix in the type it has in the source; norms and biases are float32 in any recipe."""
    kinds = {
        item.name: _KINDS[source.weights.entry(item.name).dtype]
        for item in source.spec.tensors()
        if len(item.shape) > 1
    }
    most = TensorScheme(Counter(kinds.values()).most_common(1)[0][0])
    others = {name: TensorScheme(kind) for name, kind in kinds.items() if kind != most.kind}
    return Recipe("float", "the source's own float types", most, most, most, overrides=others)


_TERNARY = "made for models trained with ternary weights (-1, 0, 1 times a scale): any other model is destroyed by it"
Q2_K = GgufNative("Q2_K")
Q2_K_S = GgufNative("Q2_K_S", useless_without=True)
Q3_K_S = GgufNative("Q3_K_S")
Q3_K_M = GgufNative("Q3_K_M")
Q3_K_L = GgufNative("Q3_K_L")
Q4_0 = GgufNative("Q4_0")
IQ4_XS = GgufNative("IQ4_XS")
IQ4_NL = GgufNative("IQ4_NL")
Q4_K_S = GgufNative("Q4_K_S")
Q4_K_M = GgufNative("Q4_K_M")
Q5_K_S = GgufNative("Q5_K_S")
Q5_K_M = GgufNative("Q5_K_M")
Q6_K = GgufNative("Q6_K")
Q8_0 = GgufNative("Q8_0", needs_statistics=False)
TQ1_0 = GgufNative("TQ1_0", needs_statistics=False, caution=_TERNARY)
TQ2_0 = GgufNative("TQ2_0", needs_statistics=False, caution=_TERNARY)
