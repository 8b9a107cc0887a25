# SPDX-License-Identifier: BSD-3-Clause
"""A browser without a screen, driven through chromedriver by the WebDriver protocol, which is HTTP and JSON."""
import base64
import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

LIMIT = 60
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
             "--disable-component-update", "--no-first-run", "--force-device-scale-factor=1"]


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


class Browser:
    """One page at a time. with Browser() as browser: browser.open(path)"""

    def __init__(self):
        self.port, self.session = free_port(), None

    def __enter__(self):
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
        try:
            self._wait()
            wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": ARGUMENTS},
                      "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            self.session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self.driver.kill()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._call("DELETE", f"/session/{self.session}")
        self.driver.terminate()
        self.driver.wait(LIMIT)

    def _wait(self):
        end = time.monotonic() + LIMIT
        while True:
            try:
                return self._call("GET", "/status")
            except OSError:
                if time.monotonic() > end or self.driver.poll() is not None:
                    raise
                time.sleep(0.05)

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def _command(self, name, body=None):
        return self._call("POST", f"/session/{self.session}/{name}", body or {})

    def devtools(self, command, **parameters):
        return self._command("goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width, height=1200):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                      mobile=False)

    def dark(self, on):
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.devtools("Emulation.setEmulatedMedia", media="", features=features)

    def scripts(self, on):
        self.devtools("Emulation.setScriptExecutionDisabled", value=not on)

    def open(self, path):
        self._command("url", {"url": path.as_uri()})

    def ask(self, script, *arguments):
        """What the function body returns in the page."""
        return self._command("execute/sync", {"script": script, "args": list(arguments)})

    def text(self):
        return self._call("GET", f"/session/{self.session}/source")

    def screenshot(self, path):
        """The whole page as a picture."""
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(taken["data"]))

    def console(self):
        return [entry["message"] for entry in self._command("se/log", {"type": "browser"})]

    def requests(self):
        """Addresses of all that the page asked for."""
        found = []
        for entry in self._command("se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found
