"""svq: lightweight speaker verification.

  svq verify ann1.wav ann2.mp3 -- who.flac

Commands, each with its own --help:

{commands}

`svq verify` runs `python3 -m svq.bin.verify`, and the others likewise; svq.bin has more, for recipes.
Exit status: 0; 1 with one line for input that cannot be used; 2 for a wrong command or option.
"""

from __future__ import annotations

import difflib
import importlib
import sys

COMMANDS = {  # the command as typed: its module of svq.bin, and what it does
    "verify": ("verify", "says whether a recording is of the same speaker as others"),
    "embed": ("embed", "computes speaker embeddings of recordings"),
    "enroll": ("enroll", "keeps voices by name in a store"),
    "identify": ("identify", "says which voice of a store a recording is"),
    "inspect": ("inspect", "shows what a packed model holds"),
    "export": ("export", "writes a model as a file for ONNX Runtime or OpenVINO"),
    "download": ("download", "gets a published checkpoint by its name"),
    "import": ("import_checkpoint", "imports a network that another toolkit trained"),
    "compress": ("compress", "does the parts of steps/compress.sh, which compresses a model to so many megabytes"),
}


def main() -> None:
    """Runs the command that stands first on the command line. Exits with 2 and one line for an unknown one."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(told(), end="", file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        from svq import __version__

        print(f"svq {__version__}")
        return
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, 1)
        mend = f"did you mean {close[0]}?" if close else f"known: {', '.join(COMMANDS)}"
        print(f"svq: no command `{words[0]}`; {mend}", file=sys.stderr)
        sys.exit(2)
    run(words)


def run(words: list[str]) -> None:
    """Runs the worker of a command line. words: a command and its arguments, as typed."""
    from svq import cli

    sys.argv = [f"svq {words[0]}", *words[1:]]
    cli.typed = sys.argv[0]
    cli.run_main(lambda: importlib.import_module(f"svq.bin.{COMMANDS[words[0]][0]}").main())


def told() -> str:
    """Writes the text of `svq --help`, with a line for each command."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items())
    return "usage: svq COMMAND ... | --help | --version\n\n" + __doc__.format(commands=lines)


if __name__ == "__main__":
    main()
