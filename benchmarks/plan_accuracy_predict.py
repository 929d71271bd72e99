"""What the estimators say of a case before it runs: from the model's configuration and the device's profile alone."""

from __future__ import annotations

from plan_accuracy_measure import workload_for
from plan_accuracy_rows import Case, Interval, Predicted

from edgeport.devices.memory import FALLBACK_ENGINES, Workload, estimate_memory
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.devices.speed import estimate_speed
from edgeport.devices.weights import weights_bytes

BITS = {"int4": 4, "int8": 8}


def predict(case: Case, model: ModelShape, profile: DeviceProfile) -> Predicted:
    engine = FALLBACK_ENGINES[case.format]
    weights = weights_bytes(model, case.precision, case.format)
    memory = estimate_memory(model, weights, engine, Workload(case.context_length))
    asked = workload_for(case.context_length, 1)
    decode, prompt = (
        estimate_speed(
            model,
            weights.file_bytes,
            BITS[case.precision],
            profile,
            engine,
            depth=depth,
            prompt_tokens=asked.n_prompt,
        )
        for depth in (asked.n_depth + asked.n_gen // 2, asked.n_depth)
    )
    prefill = (prompt.prefill_tokens_per_s, prompt.prefill_low_tokens_per_s, prompt.prefill_high_tokens_per_s)
    expected, low, high = prefill
    return Predicted(
        peak_bytes=memory.peak_bytes,
        decode=Interval(
            decode.decode_tokens_per_s, decode.decode_low_tokens_per_s, decode.decode_high_tokens_per_s
        ),
        prefill=None if expected is None or low is None or high is None else Interval(expected, low, high),
    )
