"""A headless Chromium without a network, driven through its DevTools protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-port=0",
)
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "devtools:")
STARTUP_SECONDS, PAGE_SECONDS, SETTLING_SECONDS = 60, 60, 0.1


class Browser:
    """One page of one browser. `open` loads a file; `problems` is what went wrong since."""

    def __init__(self, profile: Path):
        self.profile = profile
        self.problems: list[str] = []
        self.number = 0
        self.loaded = False

    def __enter__(self) -> Self:
        # Chromium refuses its sandbox to root, which is who runs in most containers.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [
            str(CHROMIUM),
            *FLAGS,
            *sandbox,
            f"--user-data-dir={self.profile}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.socket = websocket.create_connection(
            self._page_address(), timeout=PAGE_SECONDS, suppress_origin=True
        )
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)

    def _page_address(self) -> str:
        port_file = self.profile / "DevToolsActivePort"
        end = time.monotonic() + STARTUP_SECONDS
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"{CHROMIUM} did not start within {STARTUP_SECONDS} s")
            time.sleep(0.05)
        port = port_file.read_text().split("\n")[0]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        targets = json.load(direct.open(f"http://127.0.0.1:{port}/json/list"))
        return next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; note problems told meanwhile."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.problems.append(
                details.get("exception", details).get("description", details["text"])
            )
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.problems.append(" ".join(str(a.get("value")) for a in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            url = told["request"]["url"]
            self.problems += [] if url.startswith(LOCAL) else [f"request to {url}"]
        elif method == "Page.loadEventFired":
            self.loaded = True

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file, wait until it is set, formulas included, and forget earlier problems."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self._navigate("about:blank")
        self.problems.clear()
        self._navigate(path.resolve().as_uri())
        self.until(READY)
        time.sleep(SETTLING_SECONDS)

    def _navigate(self, url: str) -> None:
        """Go to a page and wait until it is loaded; a command sent meanwhile would be lost."""
        self.loaded = False
        self.call("Page.navigate", url=url)
        while not self.loaded:
            self._note(json.loads(self.socket.recv()))

    def until(self, condition: str) -> None:
        """Wait until a JavaScript condition holds; a page that redirects has none for a moment."""
        end = time.monotonic() + PAGE_SECONDS
        while not self._holds(condition):
            if time.monotonic() > end:
                raise RuntimeError(f"not within {PAGE_SECONDS} s: {condition}")
            time.sleep(0.05)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.evaluate(condition))
        except RuntimeError:
            return False


# A page that only redirects is empty; MathJax replaces every formula by a container of its own.
READY = (
    "document.readyState === 'complete' && document.body.innerText.trim().length > 0 &&"
    " document.querySelectorAll('mjx-container').length"
    " >= document.querySelectorAll('span.math, div.math').length"
)
