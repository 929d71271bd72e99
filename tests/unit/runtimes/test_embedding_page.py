"""What docs/embedding.md shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "embedding.md"
BLOCK = re.compile(r"^## (.+?)$|^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, str]:
    """Code by the heading it stands under."""
    found, heading = {}, ""
    for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        heading = match[1] or heading
        if match[2]:
            found[heading] = found.get(heading, "") + match[2]
    return found


@pytest.mark.parametrize("heading", blocks())
def test_the_code_runs(
    heading: str, packed_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "artifact").symlink_to(packed_dir)
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks()[heading], f"{PAGE.name}: {heading}", "exec"), {"__name__": "page"})


def test_every_part_has_code() -> None:
    assert len(blocks()) >= 8 and all("load(" in code for code in blocks().values())
