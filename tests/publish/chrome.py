"""Headless Chromium through its debugging pipe: no driver, no port, no profile of anyone's."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage --no-first-run "
    "--remote-debugging-pipe"
).split()


class Chrome:
    """One tab. Everything the page logs or fetches is kept: `troubles` and `requests`."""

    def __init__(self) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            pytest.skip("no Chromium here: apt-get install chromium")
        self._profile = tempfile.TemporaryDirectory(prefix="golf-chrome-", ignore_cleanup_errors=True)
        there, self._out = os.pipe()
        self._in, back = os.pipe()
        words = [program, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        # The browser reads commands from descriptor 3 and answers on 4.
        script = f'exec "$@" 3<&{there} 4>&{back}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chrome", *words], pass_fds=(there, back), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        self._answers = os.fdopen(self._in, "rb")
        self._count, self._session = 0, None
        self.troubles: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what else arrives is noted."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser is gone"
            text += byte
        return json.loads(text)

    def _note(self, message: dict[str, Any]) -> None:
        kind, values = message.get("method"), message.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif kind == "Runtime.exceptionThrown":
            self.troubles.append(json.dumps(values["exceptionDetails"])[:500])
        elif kind == "Log.entryAdded":
            self.troubles.append(values["entry"]["text"])
        elif kind == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.troubles.append(json.dumps(values["args"]))
        elif kind == "Page.loadEventFired":
            self.loaded = True

    def open(self, file: Path, width: int, *, dark: bool = False) -> None:
        """Load a page from disk at a width in pixels."""
        self.troubles.clear()
        self.requests.clear()
        self.loaded = False
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not self.loaded:
            self._note(self._receive())

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def picture(self, file: Path) -> None:
        """A screenshot of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._out)
        self._answers.close()
        self._profile.cleanup()


# Elements whose text sticks out to the right of the window, unless something around them scrolls.
OVERFLOWING = """
[...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  if (box.width === 0 || box.right <= innerWidth + 1) return false;
  for (let p = e; p; p = p.parentElement) if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return false;
  return true;
}).map((e) => e.tagName + " " + (e.textContent || "").trim().slice(0, 40)).slice(0, 5)
"""  # noqa: E501


def check_page(chrome: Chrome, file: Path, width: int, *, dark: bool = False) -> None:
    """What holds for every page of golf: no complaint, nothing fetched, no text cut off or sticking out."""
    chrome.open(file, width, dark=dark)
    assert chrome.ask("document.documentElement.scrollWidth") <= width
    assert chrome.ask(OVERFLOWING) == []
    assert chrome.troubles == []
    assert chrome.requests == [file.resolve().as_uri()]
