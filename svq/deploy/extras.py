"""Packages that only some of the work needs: `require` brings one in, or says how to install it."""

from __future__ import annotations

import importlib
import types

from svq.errors import UserError


def require(name: str) -> types.ModuleType:
    """The module `name` (`onnxruntime`, `onnxruntime.quantization`, ...) of a package that is not installed by default.

    Raises UserError, one line with the command that installs it, where it or something it needs is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        missing = getattr(error, "name", None) or package
        reason = "" if missing.partition(".")[0] == package else f" ({error})"
        raise UserError(f"this needs {package}, which is not installed{reason}: "
                        "bash utils/setup.sh --extras deploy") from None
