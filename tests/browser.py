"""Drives a Chromium through its debugging pipe: no driver to install, no port to guard."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-pipe",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)
_KEYS = {
    "Tab": 9,
    "Enter": 13,
    " ": 32,
    "ArrowDown": 40,
    "ArrowUp": 38,
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "Escape": 27,
}


def chromium() -> str:
    """Return the browser's path, or skip the test."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium")
    return found


@dataclass
class Page:
    """A page of a browser. `complaints` holds what its console said: errors, warnings, violated policies."""

    commands: Any
    answers: Any
    session: str = ""
    complaints: list[str] = field(default_factory=list)
    documents: list[tuple[str, int]] = field(default_factory=list)
    _number: int = 0

    def send(self, method: str, **params: Any) -> Any:
        """Send a command and return its result; what else arrives meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, address: str, *, ready: bool = True) -> None:
        """Open an address and wait until its script is done."""
        self.send("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'" + (" && document.body.dataset.ready === 'yes'" if ready else ""))

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Wait until a JavaScript condition holds.

        While a page is being replaced the condition may find nothing to look at, or go with the old page: it is asked again.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except RuntimeError:
                pass
            time.sleep(0.02)
        said = self.run("document.body?.innerText") or ""
        raise AssertionError(f"{condition} never held; {self.complaints}; {said[:2000]}")

    def run(self, code: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        result = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"])[:800])
        return result["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        common = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": _KEYS.get(key) or ord(key.upper()),
            "modifiers": 8 * shift,
        }
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self.send("Input.insertText", text=text)

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Set the size and the colours."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """Write a screenshot."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _next(self) -> dict[str, Any]:
        parts = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser ended")
            parts += byte
        answer: dict[str, Any] = json.loads(parts)
        params = answer.get("params", {})
        match answer.get("method"):
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.complaints.append(str([arg.get("value", arg.get("description")) for arg in params["args"]]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"])[:600])
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return answer


@contextmanager
def browsing(profile: Path) -> Generator[Page]:
    """Start a browser and give a page of it."""
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    command = ["bash", "-c", f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}', chromium(), *_FLAGS]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    with os.fdopen(from_us, "wb") as commands, os.fdopen(to_us, "rb") as answers:
        try:
            page = Page(commands, answers)
            target = page.send("Target.createTarget", url="about:blank")["targetId"]
            page.session = page.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                page.send(f"{domain}.enable")
            yield page
        finally:
            process.kill()
            process.wait()
