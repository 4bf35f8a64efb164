"""Turns errors into what users see: a single clear line, no traceback.

`require` imports a package that only some of the work needs, or says in one line how to install it.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import types

_MENDS = {
    errno.ENOSPC: "free some space or write elsewhere, then run it again",
    errno.EDQUOT: "free some of your quota or write elsewhere, then run it again",
    errno.EROFS: "write elsewhere", errno.EACCES: "change its permissions, or work elsewhere",
    errno.EPERM: "change its permissions, or work elsewhere", errno.ENOENT: "check the name",
    errno.EISDIR: "give a file", errno.ENOTDIR: "give a folder", errno.ENAMETOOLONG: "give a shorter one",
    errno.EMFILE: "raise the limit of open files (ulimit -n)", errno.ENFILE: "close other programs",
    errno.ENOMEM: "fewer jobs at once, or smaller batches, take less", errno.EIO: "check the disk and the space on it",
    errno.EFBIG: "write to a disk that takes larger files",
}
_NO_MEMORY = ("can't allocate memory", "CUDA out of memory", "CUDNN_STATUS_ALLOC_FAILED", "unable to mmap")


class UserError(Exception):
    """A mistake in the input (a file, an option, a config) that the user can mend.

    The message is one line that names the file (and line), what is wrong, and the mend.
    `svq.cli.run_main` prints it and exits with status 1.
    """


def located(path, line: int, text: str) -> str:
    """Gives `path:line: text`, the form that editors and compilers understand. Lines count from 1."""
    return f"{path}:{line}: {text}"


def some_of(ids, shown: int = 5) -> str:
    """Lists the first `shown` of `ids` and says how many more there are, for messages that must stay one line."""
    ids = list(ids)
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return ", ".join(str(i) for i in ids[:shown]) + more


def one_line(error: BaseException) -> str | None:
    """Says in one line what went wrong, where, and what mends it; None for what must be a fault of the program.

    Covers UserError, packages that are not installed, what the machine refuses (space, permissions, memory), and file
    contents beyond Python's limits: text that is not UTF-8, numbers out of range, nesting without end.
    """
    if isinstance(error, UserError):
        return " ".join(str(error).splitlines())
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in _EXTRAS:
        return _said_of(package, error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return f"out of memory{_asked_for(error)}; {_MENDS[errno.ENOMEM]}{_place(error)}"
    if isinstance(error, OSError) and error.errno is not None:
        given = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
        mend = f"; {_MENDS[error.errno]}" if error.errno in _MENDS else ""
        return f"{' and '.join(given)}: ".removeprefix(": ") + os.strerror(error.errno) + mend + ("" if given else _place(error))
    if isinstance(error, UnicodeDecodeError):
        byte = f"byte {error.object[error.start]:#04x} at {error.start}"
        return f"text that is not {error.encoding} ({byte}); convert it{_place(error)}"
    if isinstance(error, RecursionError):
        return f"nested too deeply; write it flatter{_place(error)}"
    if isinstance(error, ValueError) and str(error) == "embedded null byte":
        return f"a file's name holds a NUL, as no name can; write another{_place(error)}"
    if isinstance(error, OverflowError):
        return f"a number is out of range ({error}); give a smaller one{_place(error)}"
    return None


def _asked_for(error: BaseException) -> str:
    """Gives the first line of the error's own text, in brackets."""
    text = str(error).strip().splitlines()
    return f" ({text[0][:200]})" if text else ""


def _place(error: BaseException) -> str:
    """Names the function and line of svq that raised the error: a report needs it where no input is named."""
    import traceback

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}svq{os.sep}" in frame.filename]
    return f" ({frames[-1].name}, {os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""


# package: (extra of utils/setup.sh, extra of `pip install svq`) that installs it; "" is what is always installed.
_EXTRAS = {
    "torch": ("", "train"), "scipy": ("", "train"), "matplotlib": ("", "train"), "safetensors": ("", "train"),
    "kaldiio": ("", ""), "soundfile": ("", ""), "onnxruntime": ("", ""), "onnx": ("deploy", "export"),
    "openvino": ("deploy", "openvino"), "optuna": ("deploy", "search"), "sqlalchemy": ("deploy", "search"),
    "espeakng_loader": ("", "mini"),
}


def require(name: str) -> types.ModuleType:
    """Imports module `name` (`onnxruntime`, `onnxruntime.quantization`, ...) of a package that may not be installed.

    Gives the module. UserError with the command that installs the package, where it or something it needs is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(_said_of(name.partition(".")[0], error)) from None


def _said_of(package: str, error: ImportError) -> str:
    """Says what is missing, why, and which command installs it."""
    missing = error.name or package
    reason = "" if missing.partition(".")[0] == package else f" ({error})"
    return f"this needs {package}, which is not installed{reason}: {_install_line(package)}"


def _install_line(package: str) -> str:
    """Gives the command that installs a package: utils/setup.sh in a checkout with its own .venv, else pip."""
    if package not in _EXTRAS:
        return f"pip install {package}"
    of_recipes, of_pip = _EXTRAS[package]
    if _in_recipes():
        return "bash utils/setup.sh" + (f" --extras {of_recipes}" if of_recipes else "")
    return f'pip install "svq[{of_pip}]"' if of_pip else "pip install svq"


def _in_recipes(root: str = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) -> bool:
    """Says whether folder `root` is a checkout and this process runs in the .venv that utils/setup.sh makes there."""
    made = os.path.join(root, ".venv")
    return (os.path.isfile(os.path.join(root, "utils", "setup.sh")) and os.path.isdir(made)
            and os.path.samefile(made, sys.prefix))
