"""Resolves and checks a recipe before its stage 0. run.sh calls it with its options, in a dry run, too.

  python3 -m svq.bin.systems systems="teacher teacher_kmqat4" trials="dev/trials test/trials" conf=conf exp=exp ...

It ignores options that it does not know: recipes have their own. Checks every config against its schema, too, and
imports no torch for it. Prints lines of fields separated by tabs, for the shell:

  list  NAME   words                     such as teachers, students, rounded, finetuned, sets
  of    FIELD  KEY  value                such as config, net, bits, model, of a system; the value may be empty
  note  STAGE  text                      what that stage leaves out

svq.recipe.resolve has all names. Every mistake is one line on stderr, with status 2. svq.names says how systems are
named; svq.config and svq.rows say how settings and rows are written.
"""

import sys

from svq.errors import UserError, one_line
from svq.recipe.resolve import resolve_recipe


_ME = "python3 -m svq.bin.systems"


def main() -> int:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {_ME} NAME=VALUE ...\n\n{__doc__.strip()}")
        return 0
    wrong = [word for word in words if "=" not in word]
    if wrong:
        print(f"{_ME}: error: '{wrong[0]}': write options as NAME=VALUE", file=sys.stderr)
        return 2
    try:
        lines = list(resolve_recipe(dict(word.split("=", 1) for word in words)).lines())
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else one_line(error)
        if told is None:
            raise
        for line in told.splitlines():
            print(f"run.sh: {line}", file=sys.stderr)
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())  # not by svq.cli.run_main, whose argparse takes longer to import than all else here to run
