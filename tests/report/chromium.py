"""A headless Chromium, driven over its own debugging protocol: no driver, no download."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def find():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """One page of a browser of its own; use it in a ``with``.

    Attributes:
        problems: what the console was told as a warning or an error, and uncaught exceptions.
        requests: addresses the page asked for, its own among them.
    """

    def __init__(self, width=1280, height=900):
        self.size = (width, height)
        self.problems, self.requests = [], []
        self._numbers = itertools.count(1)

    def __enter__(self):
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._process = subprocess.Popen(
            [find(), *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._profile},
        )
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        if hasattr(self, "_session"):
            self._loop.run_until_complete(self._session.close())
        self._loop.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    async def _connect(self):
        import aiohttp

        port, patience = Path(self._profile) / "DevToolsActivePort", time.monotonic() + 60
        while not port.exists() or not port.read_text().strip():
            if time.monotonic() > patience or self._process.poll() is not None:
                raise RuntimeError("Chromium did not start")
            await asyncio.sleep(0.05)
        self._session = aiohttp.ClientSession()
        number = port.read_text().split()[0]
        async with self._session.get(f"http://127.0.0.1:{number}/json") as answer:
            pages = [page for page in await answer.json(content_type=None) if page["type"] == "page"]
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._ask(f"{domain}.enable")
        width, height = self.size
        await self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    async def _ask(self, method, **parameters):
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), 60)).data)
            self._note(message)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def _note(self, message):
        content = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" if content["type"] in ("error", "warning", "assert"):
                self.problems.append(f"{content['type']}: {[a.get('value', a.get('description')) for a in content['args']]}")
            case "Runtime.exceptionThrown":
                self.problems.append(f"exception: {content['exceptionDetails']}")
            case "Log.entryAdded" if content["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"log: {content['entry']['text']}")
            case "Network.requestWillBeSent":
                self.requests.append(content["request"]["url"][:200])

    def ask(self, method, **parameters):
        """Send a command of the protocol and return its result."""
        return self._loop.run_until_complete(self._ask(method, **parameters))

    def run(self, script):
        """Evaluate JavaScript, promises awaited; returns its value."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{script[:200]}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def open(self, path, timeout=60):
        """Open a report from the disk; returns seconds until everything in it was drawn, by the page's own clock."""
        self.ask("Page.navigate", url=Path(path).absolute().as_uri())
        patience = time.monotonic() + timeout
        while not self.run("document.documentElement?.dataset.ready === 'true'"):
            if time.monotonic() > patience:
                raise RuntimeError(f"the report was not ready after {timeout} s: {self.problems}")
            time.sleep(0.02)
        return self.run("performance.getEntriesByName('rollouts')[0].startTime") / 1000

    def look(self, dark=False, medium=""):
        """Prefer light or dark; ``medium`` ``print`` shows the page as printed."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", media=medium, features=scheme)

    def screenshot(self, path, whole=False, scale=1.0):
        """Write a PNG of what is in view, or of the whole page."""
        clip = {}
        if whole:
            size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": scale}}
        done = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        Path(path).write_bytes(base64.b64decode(done["data"]))

    def pdf(self, path):
        """Print to a file."""
        Path(path).write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"]))
