"""svq: lightweight speaker verification.

  svq verify ann1.wav ann2.mp3 -- who.flac

Commands, each with its own --help:

{commands}

`svq verify` is `python3 -m svq.bin.verify`, and so are the others what svq.bin has; svq.bin has more, for recipes.
Exit status: 0, 1 with one line for input that cannot be used, 2 for a wrong command or option.
"""

from __future__ import annotations

import difflib
import importlib
import sys

COMMANDS = {  # as it is typed: module of svq.bin, what it does
    "verify": ("verify", "is the speaker of one recording the one of others?"),
    "embed": ("embed", "speaker embeddings of recordings"),
    "enroll": ("enroll", "keeps voices by name in a store"),
    "identify": ("identify", "which voice of a store is it?"),
    "inspect": ("inspect", "what a packed model holds"),
    "export": ("export", "a model as a file for ONNX Runtime or OpenVINO"),
    "import": ("import_checkpoint", "a network that another toolkit trained"),
    "compress": ("compress", "the parts of steps/compress.sh: a checkpoint to so many megabytes"),
}


def main() -> None:
    """Runs the command that stands first on the command line, and exits."""
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
    """Runs the worker of `words`, a command and what follows it, as one types it."""
    from svq import cli

    sys.argv = [f"svq {words[0]}", *words[1:]]
    cli.typed = sys.argv[0]
    cli.run_main(lambda: importlib.import_module(f"svq.bin.{COMMANDS[words[0]][0]}").main())


def told() -> str:
    """The help: a line for each command."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items())
    return "usage: svq COMMAND ... | --help | --version\n\n" + __doc__.format(commands=lines)


if __name__ == "__main__":
    main()
