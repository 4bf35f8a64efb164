"""The picture of docs/demo.md: a page after a check.

  python3 -m tests.demo.picture DEMO/index.html docs/demo.png ann-1.wav ann-2.wav -- who.wav
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.demo.chromium import Browser


def main(words: list[str]) -> None:
    end = words.index("--")
    index, out, *enroll = (Path(word).resolve() for word in words[:end])
    test, = (Path(word).resolve() for word in words[end + 1:])
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(Path(folder), test)
        page = browser.open(index.as_uri())
        page.wait("document.querySelector('#check .record:not(:disabled)')")
        page.upload("#enrol .file", *enroll)
        page.wait(f"Page.enrol.recordings.length === {len(enroll)}")
        for _ in range(2):  # the second time as warm as a user's
            page.upload("#check .file", test)
            page.wait("!document.querySelector('#check.computing') && Page.check.recordings.length === 1")
        page.picture(out, 900, 600)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
