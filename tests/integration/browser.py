"""A real browser for the tests of written pages: Chromium without a window, driven over its DevTools protocol.

The protocol's messages are JSON ended by a zero byte on file descriptors 3 and 4 (`--remote-debugging-pipe`), so that no
port is opened and no package is needed. https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
TIMEOUT_S = 60.0
STARTS = 3


def find_browser() -> str | None:
    """Path of a browser that speaks the protocol, None where there is none; a stub that only says how to install one is none."""
    return next((path for name in NAMES if (path := shutil.which(name)) and _runs(path)), None)


def _runs(path: str) -> bool:
    try:
        return not subprocess.run(
            [path, "--version"], capture_output=True, check=False, timeout=TIMEOUT_S
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(slots=True)
class Browser:
    """One tab. requests: the address of everything the page asked for; complaints: console errors and exceptions."""

    process: subprocess.Popen[bytes]
    reader: int
    writer: int
    session: str = ""
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _unread: bytes = b""
    _last_id: int = 0
    _loaded: bool = False

    def call(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """One command of the protocol; its answer. Raises RuntimeError with the browser's message when it refuses."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def open(self, page: Path) -> None:
        """Load a file and wait until it is whole; what earlier pages asked for and complained of is forgotten."""
        self.requests.clear()
        self.complaints.clear()
        self._loaded = False
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._next()

    def show(self, width: int, height: int = 800, *, media: str = "screen", dark: bool = False) -> None:
        """Lay out anew for a screen of `width` CSS pixels, or with `media="print"` for such a sheet of paper."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=media == "screen" and width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def evaluate(self, script: str) -> Any:
        """The JSON value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, top: int = 0, height: int = 2000) -> Path:
        """A piece of the page, `height` CSS pixels from `top`: a picture of a long page whole is more than it can draw."""
        width = self.evaluate("document.documentElement.clientWidth")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def pdf(self) -> bytes:
        """Printed on A4."""
        answer = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        return base64.b64decode(answer["data"])

    def _next(self) -> dict[str, Any]:
        """The next message; events are noted on the way."""
        end = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self.reader], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise RuntimeError(f"the browser said nothing for {TIMEOUT_S:.0f} s")
            piece = os.read(self.reader, 1 << 20)
            if not piece:
                raise RuntimeError(f"the browser ended, code {self.process.wait(10)}")
            self._unread += piece
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: Mapping[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])


@contextmanager
def started_browser(binary: str, profile: Path) -> Iterator[Browser]:
    """A browser with one tab and profile folders of its own under `profile`, ended afterwards."""
    browser = _start(binary, profile)
    try:
        yield browser
    finally:
        _end(browser)


def _start(binary: str, profile: Path) -> Browser:
    """A start that fails on a busy machine is tried again: it says nothing of the pages. Raises the last RuntimeError."""
    for attempt in range(STARTS):
        browser = _launch(binary, profile / str(attempt))
        try:
            target = browser.call("Target.createTarget", url="about:blank")["targetId"]
            attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
            browser.session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                browser.call(f"{domain}.enable")
            return browser
        except RuntimeError:
            _end(browser)
            if attempt == STARTS - 1:
                raise
    raise AssertionError("unreachable")


def _launch(binary: str, profile: Path) -> Browser:
    (its_in, our_out), (our_in, its_out) = os.pipe(), os.pipe()
    high = [
        fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in (its_in, its_out)
    ]  # clear of 3 and 4

    def place() -> None:
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    process = subprocess.Popen(
        [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=(3, 4), preexec_fn=place,
    )  # fmt: skip
    for number in (its_in, its_out, *high):
        os.close(number)
    return Browser(process, our_in, our_out)


def _end(browser: Browser) -> None:
    for number in (browser.writer, browser.reader):
        os.close(number)  # it ends when its pipe does
    try:
        browser.process.wait(10)
    except subprocess.TimeoutExpired:
        browser.process.kill()
        browser.process.wait(10)
