"""A page in a headless Chromium, driven by the DevTools protocol over a pipe.

    python -m tests.support.browser runs/quickstart/report.html docs/images/report-phone.png --width 390

https://chromedevtools.github.io/devtools-protocol: JSON messages, each ended by a NUL byte, on descriptors 3
and 4 of the browser.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --remote-debugging-pipe --hide-scrollbars"
)
_PHONE = 600
"""CSS pixels; what is narrower is shown as on a phone, at its two device pixels each."""


class Browser:
    """A Chromium of its own, with a profile that goes with it."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp()
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # The shell puts the pipes where the protocol wants them: 3 to read, 4 to write.
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", script, str(CHROMIUM), *_FLAGS.split(), f"--user-data-dir={self._profile}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdin=quiet, stdout=quiet, stderr=quiet
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._in.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command's result; events that come meanwhile are kept. Raises RuntimeError with its error."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        """Until an event of that name has come."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._in.fileno(), 1 << 16)
            if not chunk:
                raise RuntimeError("the browser is gone")
            self._rest += chunk
        message, self._rest = self._rest.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


class Tab:
    """An open page: what it asked for and complained about, and ways to look at it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises RuntimeError where it throws."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """The value of a JavaScript expression, once it counts as true."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s in vain for: {expression}\n{self.complaints}")
            time.sleep(0.05)
        return value

    @property
    def requests(self) -> list[str]:
        """Addresses asked for, the page's own first; data: addresses are no requests."""
        urls = [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """Whatever the console shows: messages, errors, violations of the page's policy."""
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for name in names for event in self._events(name)]

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """The page from its top, as a PNG: all of it, or `height` CSS pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.evaluate("0")
        return [event for event in self._browser.events if event.get("method") == method]


@contextmanager
def opened(page: Path | str, width: int, *, dark: bool = False) -> Iterator[Tab]:
    """A page, from a file or an address, `width` CSS pixels wide."""
    with Browser() as browser:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(browser, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        phone = width < _PHONE
        tab.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=800, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        browser.events.clear()
        tab.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        browser.wait_for("Page.loadEventFired")
        yield tab


def main() -> None:
    """Take a screenshot of a page."""
    parser = argparse.ArgumentParser(description="A screenshot of a page in headless Chromium.")
    parser.add_argument("page", type=Path)
    parser.add_argument("png", type=Path)
    parser.add_argument("--width", type=int, default=1200, help="CSS pixels (default 1200)")
    parser.add_argument("--height", type=int, help="CSS pixels from the top; without it the whole page")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    with opened(arguments.page, arguments.width, dark=arguments.dark) as tab:
        tab.screenshot(arguments.png, arguments.height)
        sys.stdout.write(f"requests: {tab.requests[1:]}, console: {tab.complaints}\n")


if __name__ == "__main__":
    main()
