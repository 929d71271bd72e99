"""What one evaluation asks of the source and of every container, as one JSON file that both processes read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgeport.export.evaluate.choices import Scorer
from edgeport.export.evaluate.chunks import ChunkedText
from edgeport.export.evaluate.classification import EncodedItem, choose
from edgeport.export.evaluate.generation import continue_greedily
from edgeport.manifest import from_json, to_json
from edgeport.runtimes.session import Session


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """text: scored chunks. prompts: token ids to continue by `new_tokens` at most. items: a classification task; () for none."""

    text: ChunkedText
    prompts: tuple[tuple[int, ...], ...] = ()
    new_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    items: tuple[EncodedItem, ...] = ()

    @property
    def context_length(self) -> int:
        """Tokens a session must hold for all of it."""
        prompts = max((len(prompt) for prompt in self.prompts), default=0) + self.new_tokens
        items = max((len(item.prefix) + max(map(len, item.continuations)) for item in self.items), default=0)
        return max(self.text.n_ctx, prompts, items)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model made of a plan: new tokens per prompt, and the chosen index per item."""

    generations: tuple[tuple[int, ...], ...] = ()
    choices: tuple[int, ...] = ()


def write_plan(plan: EvalPlan, path: Path) -> None:
    path.write_text(json.dumps(to_json(plan)), encoding="utf-8")


def read_plan(path: Path) -> EvalPlan:
    plan = from_json(EvalPlan, json.loads(path.read_text(encoding="utf-8")))
    assert isinstance(plan, EvalPlan)
    return plan


def answer(session: Session, plan: EvalPlan) -> Answers:
    """Run the plan's prompts and items over one session. Raises RuntimeFailure when the engine fails."""
    generations = [
        tuple(continue_greedily(session, prompt, plan.new_tokens, plan.stop_ids)) for prompt in plan.prompts
    ]
    scorer = Scorer(session)
    return Answers(tuple(generations), tuple(choose(scorer, item) for item in plan.items))
