"""Each example runs, and does what it is an example of."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeport.runtimes.reference import ReferenceSession

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = [{"role": "user", "content": "what is the area of this shape?"}]


def example(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # pydantic looks names up there
    specification.loader.exec_module(module)
    return module


def test_terminal_chat(
    packed_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\nand now?\n\n"))
    example("terminal_chat").main(str(packed_dir / "safetensors"))
    out = capsys.readouterr().out
    assert out.startswith("reference: ") and out.count("> ") == 3 and len(out) > 60


def test_terminal_chat_goes_on_after_ctrl_c(
    packed_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, feed = [], ReferenceSession.feed

    def interrupted(session: ReferenceSession, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return feed(session, *arguments, **options)

    monkeypatch.setattr(ReferenceSession, "feed", interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\nand now?\n\n"))
    example("terminal_chat").main(str(packed_dir / "safetensors"))
    assert capsys.readouterr().out.count("> ") == 3 and len(calls) > 5


def test_embeddings_search(packed_dir: Path, tmp_path: Path) -> None:
    search = example("embeddings_search")
    text = "def area(self) -> float:\n    return 1\n\n\nThe quick brown fox\n\nimport os\n"
    (tmp_path / "a.txt").write_text(text)
    texts = search.passages([str(tmp_path / "a.txt")])
    assert texts == ["def area(self) -> float:\n    return 1", "The quick brown fox", "import os"]
    found = search.search(str(packed_dir / "gguf"), "The quick brown fox", texts, count=2)
    assert found[0] == (pytest.approx(1, abs=1e-4), "The quick brown fox") and found[1][0] < 0.999


class Client:
    """One request to an ASGI app without a server; it hangs up after `events` of the answer, if told."""

    def __init__(self, app: Any, document: dict[str, Any], hang_up_after: int | None = None) -> None:
        self._app, self._body, self._hang_up_after = app, json.dumps(document).encode(), hang_up_after
        self.events: list[dict[str, Any]] = []
        self.status = 0
        self._asked = False
        self._gone = asyncio.Event()

    async def ask(self, path: str) -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
            "headers": [(b"content-type", b"application/json")], "server": ("test", 80), "client": ("test", 1),
        }  # fmt: skip
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        lines = message["body"].decode().splitlines()
        self.events += [
            json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")
        ]
        if self._hang_up_after is not None and len(self.events) >= self._hang_up_after:
            self._gone.set()


def test_fastapi_app(packed_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    monkeypatch.setenv("EDGEPORT_ARTIFACT", str(packed_dir / "safetensors"))
    module = example("fastapi_app")
    app = module.app
    feed = ReferenceSession.feed

    def slow_feed(session: ReferenceSession, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.01)
        return feed(session, *arguments, **options)

    async def main() -> None:
        async with module.lifespan(app):
            model = app.state.model
            whole = Client(app, {"messages": MESSAGES, "max_tokens": 12})
            await whole.ask("/chat")
            expected = model.chat(MESSAGES, module.GenerationOptions(max_tokens=12))
            assert whole.status == 200
            assert "".join(item["text"] for item in whole.events) == expected.text
            assert whole.events[-1]["finish_reason"] == expected.finish_reason

            long = Client(app, {"messages": MESSAGES, "max_tokens": 9999})
            await long.ask("/chat")
            assert "need a context of" in long.events[0]["error"] and len(long.events) == 1

            monkeypatch.setattr(ReferenceSession, "feed", slow_feed)
            gone = Client(app, {"messages": MESSAGES, "max_tokens": 150}, hang_up_after=1)
            await gone.ask("/chat")
            written = model.session.position - expected.prompt_tokens
            assert gone.events and written < 75, "the text of a client that hung up is stopped"
            assert (await model.agenerate("x", module.GenerationOptions(max_tokens=1))).tokens

    asyncio.run(main())
