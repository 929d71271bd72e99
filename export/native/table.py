"""The formats' own schemes by name, loaded when asked for. A new scheme is one line here.

How an export uses one (the folder of the container and its entry in the manifest have the native name):

    native = get_native("gguf-q4_k_m")
    native.reasons_against(source), native.forecast(source.spec)        # before anything runs; exact with statistics
    entry = native.write(source, statistics, folder, options)           # folder: artifact / "gguf-q4_k_m", empty
    identity = native_identity(native.name, entry, source, artifact, progress)   # edgeport.export.verify.native
    ContainerEntry(format=native.name, ..., weights_id=identity.weights_id)

`native_identity` reads the container back, refuses one that is not near the source, and leaves weights-NAME.json and
golden-NAME.json in the artifact folder, which `verify_artifact` checks the container against from then on. An artifact of
native containers alone has no weights.json and no golden.json, and its manifest's weights_id is "".
`edgeport.manifest.base_format(name)` is what engines, readers and tokenizers are looked up by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from edgeport.errors import UsageError
from edgeport.export.native.base import NativeFormat
from edgeport.lazy import load

NATIVE: Mapping[str, str] = {
    "gguf-q2_k": "edgeport.export.native.gguf_k_quants:Q2_K",
    "gguf-q2_k_s": "edgeport.export.native.gguf_k_quants:Q2_K_S",
    "gguf-q3_k_s": "edgeport.export.native.gguf_k_quants:Q3_K_S",
    "gguf-q3_k_m": "edgeport.export.native.gguf_k_quants:Q3_K_M",
    "gguf-q3_k_l": "edgeport.export.native.gguf_k_quants:Q3_K_L",
    "gguf-q4_0": "edgeport.export.native.gguf_k_quants:Q4_0",
    "gguf-iq4_xs": "edgeport.export.native.gguf_k_quants:IQ4_XS",
    "gguf-iq4_nl": "edgeport.export.native.gguf_k_quants:IQ4_NL",
    "gguf-q4_k_s": "edgeport.export.native.gguf_k_quants:Q4_K_S",
    "gguf-q4_k_m": "edgeport.export.native.gguf_k_quants:Q4_K_M",
    "gguf-q5_k_s": "edgeport.export.native.gguf_k_quants:Q5_K_S",
    "gguf-q5_k_m": "edgeport.export.native.gguf_k_quants:Q5_K_M",
    "gguf-q6_k": "edgeport.export.native.gguf_k_quants:Q6_K",
    "gguf-q8_0": "edgeport.export.native.gguf_k_quants:Q8_0",
    "gguf-tq1_0": "edgeport.export.native.gguf_k_quants:TQ1_0",
    "gguf-tq2_0": "edgeport.export.native.gguf_k_quants:TQ2_0",
    "bitsandbytes-nf4": "edgeport.export.native.bitsandbytes:NF4",
    "bitsandbytes-int8": "edgeport.export.native.bitsandbytes:INT8",
}


def get_native(name: str) -> NativeFormat:
    """Raises UsageError for an unknown name, MissingExtra when its package is absent."""
    if name not in NATIVE:
        raise UsageError(f"unknown native scheme {name!r}", hint=f"native schemes are {', '.join(NATIVE)}")
    found = load(NATIVE[name], extra="export")
    return cast(NativeFormat, found() if isinstance(found, type) else found)
