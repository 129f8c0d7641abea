"""A headless Chromium, driven through chromedriver's own protocol: nothing has to be installed."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-sync", "--no-first-run", "--hide-scrollbars",
]  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, port: int, chromium: str, profile: Path) -> None:
        """Open the window; chromedriver listens at `port`."""
        self._base = f"http://127.0.0.1:{port}/session"
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = self._call("", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/{answer['sessionId']}"

    def _call(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._base + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, width: int = 1280, theme: str = "light") -> None:
        """Load a page at a width in CSS pixels."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        self._call("/url", {"url": page.resolve().as_uri()})

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script: str) -> Any:
        """The value that a script returns in the page."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """What the pages have written to the console since the last call."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call; not inlined data and the browser's own pages."""
        entries = self._call("/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]
        return [
            url for url in urls if not url.startswith(("data:", "chrome:", "chrome-untrusted:"))
        ]

    def close(self) -> None:
        """Close the window."""
        request = urllib.request.Request(self._base, method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()


@contextlib.contextmanager
def started(chromium: str, driver: str, profile: Path) -> Iterator[Browser]:
    """A browser for some tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([driver, f"--port={port}"], stdout=quiet, stderr=quiet)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            time.sleep(0.1)
        browser = Browser(port, chromium, profile)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait()
