"""Headless Chromium, driven by the DevTools protocol over two pipes: needs no package besides the browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 180.0  # seconds, for a machine under load
FLAGS = ("--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--remote-debugging-pipe")


def program() -> str | None:
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """A browser with a profile of its own in `folder`, whose microphone plays the WAV file `microphone`."""

    def __init__(self, folder: Path, microphone: Path):
        (theirs_in, self.out), (self.into, theirs_out) = os.pipe(), os.pipe()
        flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--use-file-for-fake-audio-capture={microphone}"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # which root cannot have
        # Chromium reads descriptor 3 and writes 4.
        command = ["bash", "-c", 'exec "${@:3}" 3<&"$1" 4>&"$2"', "bash", str(theirs_in), str(theirs_out), program(), *flags]
        self.log = open(folder / "chromium.log", "wb")
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        os.close(theirs_in)
        os.close(theirs_out)
        self.folder, self.number, self.rest, self.events = folder, 0, b"", []
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "downloads"))

    def call(self, method: str, session: str | None = None, **params) -> dict:
        """What the browser answers; RuntimeError for an error, TimeoutError for no answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        os.write(self.out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        end = time.monotonic() + WAIT
        while True:
            found = self._message(end)
            if found.get("id") == self.number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]
            self.events.append(found)

    def _message(self, end: float) -> dict:
        while b"\0" not in self.rest:
            if not select.select([self.into], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            read = os.read(self.into, 1 << 20)
            if not read:
                raise RuntimeError(f"Chromium ended: {Path(self.log.name).read_text(errors='replace')[-500:]}")
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> Page:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "DOM", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=url)
        end = time.monotonic() + WAIT
        while not any(event.get("sessionId") == session and event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message(end))
        return page

    def close(self) -> None:
        try:
            self.call("Browser.close")
            self.process.wait(WAIT)
        except (RuntimeError, TimeoutError, BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
        for descriptor in (self.out, self.into):
            os.close(descriptor)
        self.log.close()


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str):
        self.browser, self.session, self.target = browser, session, target

    def call(self, method: str, **params) -> dict:
        return self.browser.call(method, self.session, **params)

    def run(self, script: str):
        """The value of a JavaScript expression, of a promise that of its end; AssertionError where it throws."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = WAIT) -> None:
        """Returns as soon as an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}; the page: {self.run('document.body.innerText')}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def upload(self, selector: str, *files: Path) -> None:
        """Chooses files as a user does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def picture(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        """Writes a PNG of the whole page on a screen of that size."""
        self.call("Page.bringToFront")  # else nothing is drawn
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 300)))")
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def found(self, *methods: str) -> list[dict]:
        """The parameters of all events of these kinds that this page has had."""
        self.run("0")  # brings what is under way
        return [event["params"] for event in self.browser.events
                if event.get("sessionId") == self.session and event["method"] in methods]

    def troubles(self) -> list[str]:
        """What the browser complained of: exceptions, and errors in its log, such as refused connections."""
        thrown = [str(event["exceptionDetails"]) for event in self.found("Runtime.exceptionThrown")]
        logged = [event["entry"] for event in self.found("Log.entryAdded")]
        return thrown + [entry["text"] for entry in logged if entry["level"] in ("error", "warning")]

    def requests(self) -> list[str]:
        return [event["request"]["url"] for event in self.found("Network.requestWillBeSent")]

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)
