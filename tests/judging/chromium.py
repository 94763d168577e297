"""A headless Chromium, steered over the W3C WebDriver protocol: https://www.w3.org/TR/webdriver2/."""

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


class Browser:
    """One window."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, values: dict[str, Any] | None = None) -> Any:
        """Send a command, and return its value; without `values` it is a question."""
        data = None if values is None else json.dumps(values).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Send a command of the Chrome DevTools protocol."""
        return self.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, page: Path, *, width: int, height: int = 900, media: str = "screen", scheme: str = "light") -> None:
        """Open a file in a window of that size, on a screen or in print, light or dark."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)
        self.ask("/url", {"url": page.as_uri()})

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self.ask("/execute/sync", {"script": f"return {expression}", "args": []})

    def messages(self) -> list[str]:
        """Return what the console has said since it was asked last."""
        return [entry["message"] for entry in self.ask("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since it was asked last."""
        events = [json.loads(entry["message"])["message"] for entry in self.ask("/se/log", {"type": "performance"})]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path, *, whole: bool = False) -> bytes:
        """Write what the window shows, or the whole page, as PNG, and return it."""
        image = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        content = base64.b64decode(image["data"])
        path.write_bytes(content)
        return content


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start a browser with a profile in `folder`, and end it."""
    log = (folder / "chromedriver.log").open("w")
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=log, text=True)
    assert driver.stdout is not None
    try:
        port = next(
            line.rstrip(".\n").rpartition(" ")[2] for line in driver.stdout if "started successfully on port" in line
        )
        browser = Browser(f"http://127.0.0.1:{port}/session")
        options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"],
            "perfLoggingPrefs": {"enableNetwork": True, "enablePage": False},
        }
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = browser.ask("", {"capabilities": {"alwaysMatch": wanted}})
        browser.address += f"/{session['sessionId']}"
        try:
            yield browser
        finally:
            request = urllib.request.Request(browser.address, method="DELETE")
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300).close()
    finally:
        driver.terminate()
        driver.wait()
        driver.stdout.close()
        log.close()
