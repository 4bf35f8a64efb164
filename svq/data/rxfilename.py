"""Kaldi's extended file names, as they stand in wav.scp and feats.scp: a file, `ark:offset`, or `command |`.

A list with a command is a script, so commands are off unless SVQ_ALLOW_PIPES=true in the environment allows them. A
recipe's run.sh sets it, as its stage 1 has written the lists; users set it once they have read somebody else's list.
Nothing else does.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass, replace

from svq.errors import UserError, located

_OFFSET = re.compile(r"(.+):([0-9]{1,19})", re.DOTALL)
# Extensions of the formats that SoX 14.4 decodes; everything else is left to ffmpeg.
SOX_READS = {"wav", "flac", "ogg", "mp3", "sph", "aiff", "aif", "au", "amr", "gsm", "nist", "voc", "w64", "caf"}
VARIABLE = "SVQ_ALLOW_PIPES"
_SHOWN = 60  # characters of a command in a message


@dataclass(frozen=True)
class Rx:
    """An extended file name, read into its parts.

    kind: "file", "offset", "pipe" or "held". path: file name or command. offset: bytes into the file (kind "offset"). held:
    `data` are the bytes of the recording, read before, and `path` is its name, whose extension counts. channel: the one
    that is meant where a recording has several, from 0; None where nothing says which.
    """

    kind: str
    path: str
    offset: int = 0
    channel: int | None = None
    data: bytes = b""

    def __str__(self) -> str:
        name = {"offset": f"{self.path}:{self.offset}", "pipe": f"{self.path} |"}.get(self.kind, self.path)
        return name if self.channel is None else f"{name} (channel {self.channel + 1})"

    def of_channel(self, channel: int) -> Rx:
        """Gives the same recording with `channel`, from 0, as the one that is meant."""
        return replace(self, channel=channel)


def parse(rxfilename: str | Rx) -> Rx:
    """Classifies an extended file name as Kaldi's ClassifyRxfilename does; UserError for one that cannot be read.

    An `Rx` comes back as it is.
    """
    if isinstance(rxfilename, Rx):
        return rxfilename
    text = rxfilename.strip()
    if text.endswith("|"):
        command = text[:-1].strip()
        if not command:
            raise UserError("an empty command before `|`")
        return Rx("pipe", command)
    if not text or text == "-":
        raise UserError("standard input cannot be read twice; name a file" if text else "an empty file name")
    if text.startswith("|"):
        raise UserError(f"`{text}` is an output pipe; an input pipe ends in `|`")
    match = _OFFSET.fullmatch(text)
    if match:
        return Rx("offset", match[1], int(match[2]))
    return Rx("file", text)


def quote_path(path: str) -> str:
    """Quotes a file name as one word of a shell command that no tool takes for an option, a pipe or a URL."""
    if path[:1] in "-|" or "://" in path:
        path = "./" + path
    return shlex.quote(path)


def speed_command(rxfilename: str, factor: str) -> str:
    """Gives the `command |` that plays a recording at `factor` times its speed and pitch (SoX's `speed` effect).

    It has SoX's -R: without it SoX seeds its dither by the clock, and no two runs give the same samples.
    """
    rx = parse(rxfilename)
    effect = f"-t wav - speed {shlex.quote(factor)} |"
    if rx.kind == "pipe":
        return f"{rx.path} | sox -R -t wav - {effect}"
    if rx.kind == "offset":  # a WAV inside an archive says its own length, so SoX stops at its end
        return f"tail -c +{rx.offset + 1} {quote_path(rx.path)} | sox -R -t wav - {effect}"
    extension = rx.path.rpartition(".")[2].lower()
    if extension not in SOX_READS:
        return f"ffmpeg -nostdin -v error -i {shlex.quote('file:' + rx.path)} -f wav - | sox -R -t wav - {effect}"
    if set(rx.path) & set("*?[]{}~\\"):  # SoX expands these itself, whatever the shell's quotes say
        return f"sox -R -t {extension} - {effect[:-2]} < {shlex.quote(rx.path)} |"
    return f"sox -R {quote_path(rx.path)} {effect}"


def allowed() -> bool:
    """Says whether SVQ_ALLOW_PIPES in the environment allows commands; UserError if it is neither true nor false."""
    value = os.environ.get(VARIABLE) or "false"
    if value not in ("true", "false"):
        raise UserError(f"{VARIABLE} is '{value}'; write true or false")
    return value == "true"


def require_allowed(table) -> None:
    """Raises UserError, naming the first line of a `Table` that runs a command, unless commands are allowed."""
    rows = table.rows_ending_in(b"|")
    if len(rows) and not allowed():
        row = int(rows[0])
        raise UserError(located(table.path, row + 1, f"`{table.key(row)}` {_refusal(str(table.value(row))[:-1])}"))


def start(command: str, stderr=None) -> subprocess.Popen:
    """Starts a shell command in its own session, its standard output a pipe; UserError unless commands are allowed."""
    if not allowed():
        raise UserError(_refusal(command))
    return subprocess.Popen(["bash", "-o", "pipefail", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=stderr, start_new_session=True)


def _refusal(command: str) -> str:
    command = " ".join(command.split())
    shown = command if len(command) <= _SHOWN else command[:_SHOWN] + "..."
    return f"runs a command ({shown}), and lists may not: read the list, and if you trust it, export {VARIABLE}=true"
