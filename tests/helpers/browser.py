"""Headless Chromium, driven through chromedriver's own protocol (W3C WebDriver: JSON over HTTP)."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


class Browser:
    """One window. `get` loads a page, `run` evaluates JavaScript, `log` gives what was logged since the last call."""

    def __init__(self, base, session):
        self._root = f"{base}/session/{session}"

    def _call(self, method, path, document=None):
        return _request(method, self._root + path, document)

    def get(self, url):
        self._call("POST", "/url", {"url": url})

    def resize(self, width, height, *, phone=False):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def devtools(self, command, parameters):
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script, *arguments):
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def log(self, kind):
        return self._call("POST", "/se/log", {"type": kind})

    def screenshot(self, *, whole=False):
        """The window, or the whole page, as PNG bytes."""
        found = self.devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        return base64.b64decode(found["data"])


def _request(method, url, document=None):
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(error.read().decode()) from None


@contextlib.contextmanager
def browser(folder, dark=False):
    """A headless browser whose profile lies in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HOME": str(folder), "no_proxy": "127.0.0.1"}
    command = [DRIVER, f"--port={port}", "--log-level=OFF"]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                if _request("GET", f"{base}/status")["ready"]:
                    break
            time.sleep(0.05)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                     f"--user-data-dir={folder}/profile", *(["--force-dark-mode"] if dark else [])]  # fmt: skip
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        opened = _request("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = opened["sessionId"]
        try:
            yield Browser(base, session)
        finally:
            _request("DELETE", f"{base}/session/{session}")
    finally:
        driver.terminate()
        driver.wait(20)
