"""Threads and tasks at once on one model of each engine: whoever stops, closes or cancels, all others get their own text."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeport.runtimes import GenerationOptions, Model, SessionOptions, load
from edgeport.runtimes.engines import ENGINES, unavailable_because

SECONDS, TOKENS = 3.0, 24
PROMPTS = ["def area(self):\n    return", "class Shape:\n    def", "import os\nimport sys\n", "for index in"]
Texts = dict[str, tuple[int, ...]]


class Callers:
    """What they did is counted, and every text that is not the expected one is kept."""

    def __init__(self, model: Model, expected: Texts) -> None:
        self.model, self.expected, self.wrong = model, expected, list[str]()
        self.done = {"whole": 0, "left": 0, "awaited": 0, "cancelled": 0}
        self.end = time.monotonic() + SECONDS

    def check(self, what: str, prompt: str, tokens: tuple[int, ...], *, whole: bool = True) -> None:
        self.done[what] += 1
        if tokens != self.expected[prompt][: None if whole else len(tokens)]:
            self.wrong.append(prompt)

    def in_thread(self, seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < self.end:
            prompt, count = dice.choice(PROMPTS), dice.randrange(1, TOKENS)
            if dice.random() < 0.5:
                found = self.model.generate(prompt, GenerationOptions(TOKENS, ignore_stop_tokens=True))
                self.check("whole", prompt, found.tokens)
                continue
            stream = self.model.stream(prompt, GenerationOptions(TOKENS, ignore_stop_tokens=True))
            tokens = tuple(token.id for token, _ in zip(stream, range(count), strict=False))
            stream.close()
            self.check("left", prompt, tokens, whole=False)

    async def in_task(self, seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < self.end:
            prompt = dice.choice(PROMPTS)
            options = GenerationOptions(TOKENS, ignore_stop_tokens=True)
            task = asyncio.create_task(self.model.agenerate(prompt, options))
            await asyncio.sleep(dice.random() * 0.02)
            if dice.random() < 0.5 and not task.done():
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                self.done["cancelled"] += 1
            else:
                self.check("awaited", prompt, (await task).tokens)


@pytest.mark.slow
@pytest.mark.parametrize("engine", list(ENGINES))
def test_everyone_gets_their_own_text(engine: str, llama_artifact: Path) -> None:
    if (reason := unavailable_because(engine)) is not None:
        pytest.skip(reason)
    options = SessionOptions(threads=1, context_length=64, exact=True)
    anew = GenerationOptions(TOKENS, ignore_stop_tokens=True, prompt_cache=False)
    with load(llama_artifact, runtime=engine, options=options) as model:
        callers = Callers(model, {prompt: model.generate(prompt, anew).tokens for prompt in PROMPTS})
        work: list[Callable[[], None]] = [lambda seed=seed: callers.in_thread(seed) for seed in range(3)]  # type: ignore[misc]
        threads = [threading.Thread(target=item) for item in work]
        for thread in threads:
            thread.start()

        async def tasks() -> None:
            await asyncio.gather(*(callers.in_task(seed) for seed in range(10, 13)))

        asyncio.run(tasks())
        for thread in threads:
            thread.join(60)
    assert callers.wrong == [] and all(callers.done.values()), callers.done
