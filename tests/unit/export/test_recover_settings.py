"""Settings from plain values: what is written is read back, and every error is told at once."""

from __future__ import annotations

import json

import pytest

from edgeport.errors import UsageError
from edgeport.export.recover.settings import DistillSettings, parse_distill, settings_from


def test_a_document_is_read_back() -> None:
    settings = DistillSettings(alpha=0.5, steps=12, text=("python", "embedded"), options={"rank": 8})
    document = json.loads(json.dumps(settings.to_document()))
    assert settings_from(document) == settings
    assert settings_from({}) == DistillSettings()
    assert settings_from({"text": "self"}).text == ("self",)


def test_every_error_is_told_at_once() -> None:
    problems: list[str] = ["before"]
    document = {
        "alhpa": 1,
        "alpha": 1.5,
        "temperature": "hot",
        "steps": 2.5,
        "kind": "tiny",
        "precision": "f8",
        "text": [],
        "gradient_checkpointing": 1,
        "seed": True,
    }
    assert parse_distill(document, problems=problems) == DistillSettings()
    told = "\n".join(problems)
    assert "did you mean 'alpha'?" in told
    for name in document:
        assert name in told
    assert len(problems) == 1 + len(document)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"steps": 5, "minutes": 1}, "one length"),
        ({"n_ctx": 4096}, "micro_tokens"),
        ({"batch_tokens": 1024}, "batch_tokens"),
        ({"cache_teacher": 8, "hidden_weight": 1.0}, "hidden_weight have to be 0"),
        ({"cache_teacher": 8, "alpha": 0}, "nothing reads"),
    ],
)
def test_what_does_not_go_together_is_refused(document: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        settings_from(document)


def test_a_run_has_one_length() -> None:
    assert DistillSettings().minutes_wanted == 20
    assert DistillSettings(minutes=3).minutes_wanted == 3
    assert DistillSettings(steps=3).minutes_wanted is None
