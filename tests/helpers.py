"""Running workers inside the test's process: a fresh interpreter with torch costs seconds."""

from __future__ import annotations

import sys
from unittest import mock


def run_worker(main, *arguments) -> None:
    """Calls a worker's `main()` with this command line; its UserError comes out as it is."""
    with mock.patch.object(sys, "argv", ["worker", *map(str, arguments)]):
        main()
