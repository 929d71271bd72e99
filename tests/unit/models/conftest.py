"""models/ is a folder of scripts, not an installed package: its tests import them by path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[3] / "models"
sys.path.insert(0, str(MODELS))


@pytest.fixture(scope="session")
def reference() -> Path:
    return MODELS / "reference"
