"""A real browser for tests: Chromium without a window, driven over its debugging pipe with nothing
but the standard library.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome-headless-shell",
)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--remote-debugging-pipe",
)
_ON_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
    " os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
_SLOW_S = 60.0


def chromium() -> str | None:
    """Where it is; None if there is none. ``CHROMIUM`` in the environment comes first."""
    return os.environ.get("CHROMIUM") or next(
        (path for path in map(shutil.which, _NAMES) if path), None
    )


class Browser:
    """A process of its own, without a profile; ``close`` ends it."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        (to_read, self._write), (self._read, to_write) = os.pipe(), os.pipe()
        # out of the way of 3 and 4
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_read, to_write)]
        command = [
            sys.executable,
            "-c",
            _ON_3_AND_4,
            *map(str, ends),
            path,
            *_FLAGS,
            f"--user-data-dir={self._profile.name}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command,
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (to_read, to_write, *ends):
            os.close(fd)
        self._number, self._answers, self._changed = 0, dict[int, Any](), threading.Condition()
        self._listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        held = b""
        while block := os.read(self._read, 1 << 16):
            *messages, held = (held + block).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    with self._changed:
                        self._answers[message["id"]] = message
                        self._changed.notify_all()
                elif listener := self._listeners.get(message.get("sessionId", "")):
                    listener(message["method"], message["params"])

    def call(self, method: str, session: str = "", **params: Any) -> Any:
        """One command of the DevTools protocol."""
        with self._changed:
            self._number += 1
            number = self._number
            message = {"id": number, "method": method, "params": params} | (
                {"sessionId": session} if session else {}
            )
            os.write(self._write, json.dumps(message).encode() + b"\0")
            assert self._changed.wait_for(lambda: number in self._answers, _SLOW_S), (
                f"the browser does not answer {method}"
            )
            answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(
        self,
        url: str,
        width: int = 1440,
        height: int = 900,
        *,
        scheme: str = "light",
        is_calm: bool = True,
    ) -> Tab:
        """A tab of its own, without cookies or storage of another. ``is_calm``: the reader wants no
        motion.
        """
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)[
            "targetId"
        ]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        self._listeners[session] = tab.hear
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        tab.look(width, height, scheme=scheme, is_calm=is_calm)
        self.call("Page.navigate", session, url=url)
        return tab

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        self._profile.cleanup()


class Tab:
    """What somebody at the browser can do, and what its console says."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.errors: list[str] = []

    def hear(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.errors.append(
                " ".join(
                    str(one.get("value", one.get("description", ""))) for one in params["args"]
                )
            )
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self._session, **params)

    def look(self, width: int, height: int, *, scheme: str = "light", is_calm: bool = True) -> None:
        """The size of the window, and what its reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce" if is_calm else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def run(self, script: str) -> Any:
        """The value of an expression; one that is a promise is waited for."""
        said = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"].get(
            "exception", said["exceptionDetails"]
        )
        return said["result"].get("value")

    def until(self, script: str, timeout_s: float = 30.0) -> Any:
        """Wait for an expression to be true, and return it; what it asks of may not be there
        yet.
        """
        end = time.monotonic() + timeout_s
        while not (
            value := self.run(f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()")
        ):
            assert time.monotonic() < end, (
                f"not in time: {script}; the page says:"
                f" {self.run('document.body.innerText')[:600]}; {self.errors[:3]}"
            )
            time.sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """With the mouse, in its middle, where it must not be covered."""
        place = self.run(f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{ block: "center", behavior: "instant" }});
            const box = node.getBoundingClientRect();
            const x = box.x + box.width / 2, y = box.y + box.height / 2;
            return {{ x, y, isFree: node.contains(document.elementFromPoint(x, y)) }};
        }})()""")
        assert place["isFree"], f"{selector} is covered"
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place["x"],
                y=place["y"],
                button="left",
                clickCount=1,
            )

    def press(self, key: str, *, shift: bool = False) -> None:
        code = _KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        for kind, extra in (("keyDown", text), ("keyUp", {})):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=8 if shift else 0,
                **extra,
            )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, *, is_whole: bool = False) -> None:
        """A screenshot as PNG. ``is_whole``: of the page, not of the window."""
        Path(path).write_bytes(
            base64.b64decode(
                self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)[
                    "data"
                ]
            )
        )


__all__ = ["Browser", "Tab", "chromium"]
