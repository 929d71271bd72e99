"""The loops that benchmarks/decode.py times: our adapter, each engine's own loop, and each peer as it comes.

A loop is made once per process and then run with one prompt after the other. Every loop decodes greedily, pays for picking
the token, and gives back the seconds from the prompt to the first token and from there to the last.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.bench.measure import random_tokens
from edgeport.runtimes.engine_settings import settings_from
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions

Timing = tuple[float, float]
"""Seconds of one repetition: prompt to first token, first token to last."""
Loop = Callable[[Sequence[int]], Timing]


@dataclass(frozen=True, slots=True)
class Task:
    """What every side gets. threads: None leaves them to the peer. settings: of our adapter, as EngineSettings.chosen()."""

    path: str
    format: str
    vocab_size: int
    n_prompt: int
    n_gen: int
    repetitions: int
    threads: int | None
    seed: int
    settings: dict[str, Any]

    @property
    def context_length(self) -> int:
        return self.n_prompt + self.n_gen + 1

    def prompts(self) -> list[list[int]]:
        """One for the warm-up and one for each repetition, all different: no side profits from a prefix cache."""
        return [
            random_tokens(self.n_prompt, self.vocab_size, seed=self.seed + index)
            for index in range(self.repetitions + 1)
        ]


def measure(loop: str, task: dict[str, Any]) -> list[Timing]:
    """In the child: the repetitions of one side, without the warm-up."""
    job = Task(**task)
    run = LOOPS[loop](job)
    return [run(prompt) for prompt in job.prompts()][1:]


def _adapter(task: Task) -> Loop:
    settings = settings_from(task.settings) if task.settings else None
    options = SessionOptions(threads=task.threads, context_length=task.context_length, settings=settings)
    session = open_session(task.format, Path(task.path), options)

    def run(prompt: Sequence[int]) -> Timing:
        session.rewind(0)
        start = time.perf_counter()
        token = int(session.feed(prompt)[-1].argmax())
        first = time.perf_counter()
        for _ in range(task.n_gen):
            token = int(session.feed((token,))[-1].argmax())
        return first - start, time.perf_counter() - first

    return run


def _llama_low_level(task: Task) -> Loop:
    """llama.cpp's C functions one after the other, as its own examples call them: nothing of Python in between but the calls."""
    import llama_cpp.llama_cpp as native

    native.llama_backend_init()
    silent = native.llama_log_callback(lambda *_: None)
    native.llama_log_set(silent, ctypes.c_void_p(0))
    model = native.llama_model_load_from_file(task.path.encode(), native.llama_model_default_params())
    parameters = native.llama_context_default_params()
    parameters.n_ctx = task.context_length
    if task.threads is not None:
        parameters.n_threads = parameters.n_threads_batch = task.threads
    context = native.llama_init_from_model(model, parameters)
    sampler = native.llama_sampler_init_greedy()
    one = (native.llama_token * 1)()

    def decode(tokens: Any, count: int) -> int:
        if native.llama_decode(context, native.llama_batch_get_one(tokens, count)) != 0:
            raise RuntimeFailure("llama_decode failed")
        return int(native.llama_sampler_sample(sampler, context, -1))

    def run(prompt: Sequence[int]) -> Timing:
        _keep_alive = silent, model
        native.llama_memory_clear(native.llama_get_memory(context), False)
        start = time.perf_counter()
        one[0] = decode((native.llama_token * len(prompt))(*prompt), len(prompt))
        first = time.perf_counter()
        for _ in range(task.n_gen):
            one[0] = decode(one, 1)
        return first - start, time.perf_counter() - first

    return run


def _llama_cpp_python(task: Task) -> Loop:
    import llama_cpp

    threads = {} if task.threads is None else {"n_threads": task.threads, "n_threads_batch": task.threads}
    model = llama_cpp.Llama(task.path, n_ctx=task.context_length, verbose=False, **threads)

    def run(prompt: Sequence[int]) -> Timing:
        model.reset()
        start = time.perf_counter()
        tokens = model.generate(list(prompt), temp=0.0, repeat_penalty=1.0)
        next(tokens)
        first = time.perf_counter()
        for _ in range(task.n_gen):
            next(tokens)
        return first - start, time.perf_counter() - first

    return run


def _onnxruntime_genai(task: Task) -> Loop:
    import onnxruntime_genai as genai

    config = genai.Config(str(Path(task.path).parent))
    if task.threads is not None:
        options = {"session_options": {"intra_op_num_threads": task.threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
    model = genai.Model(config)

    def run(prompt: Sequence[int]) -> Timing:
        parameters = genai.GeneratorParams(model)
        # min_length keeps the end-of-text token away
        parameters.set_search_options(
            max_length=task.context_length, min_length=task.context_length, do_sample=False
        )
        generator = genai.Generator(model, parameters)
        start = time.perf_counter()
        generator.append_tokens(list(prompt))
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(task.n_gen):
            generator.generate_next_token()
        last = time.perf_counter()
        if generator.token_count() != task.context_length:
            raise UsageError(f"Generator holds {generator.token_count()} tokens, not {task.context_length}")
        return first - start, last - first

    return run


def _openvino_genai(task: Task) -> Loop:
    import numpy as np
    import openvino
    import openvino_genai as genai

    properties = {} if task.threads is None else {"INFERENCE_NUM_THREADS": task.threads}
    pipeline = genai.LLMPipeline(str(Path(task.path).parent), "CPU", properties)
    config = genai.GenerationConfig()
    config.max_new_tokens = task.n_gen + 1
    config.ignore_eos = True
    config.do_sample = False

    def run(prompt: Sequence[int]) -> Timing:
        result = pipeline.generate(openvino.Tensor(np.array([prompt], np.int64)), config)
        metrics = result.perf_metrics
        if metrics.get_num_generated_tokens() != task.n_gen + 1:
            raise UsageError(
                f"LLMPipeline wrote {metrics.get_num_generated_tokens()} tokens, not {task.n_gen + 1}"
            )
        return metrics.get_ttft().mean / 1000, metrics.get_tpot().mean * task.n_gen / 1000

    return run


LOOPS: dict[str, Callable[[Task], Loop]] = {
    "edgeport": _adapter,
    "llama_decode": _llama_low_level,
    "llama_cpp.Llama": _llama_cpp_python,
    "onnxruntime_genai.Generator": _onnxruntime_genai,
    "openvino_genai.LLMPipeline": _openvino_genai,
}
