"""Makes a Kaldi data directory from a tree of recordings, or from a table of them. utils/data_from_tree.sh runs this.

A tree has a folder for each speaker. A table is a .csv (commas) or .tsv (tabs) with the columns path and speaker and,
where known, gender. svq/data/tree.py says how speakers and utterances are called.
"""

import os
import sys

from svq import cli
from svq.data import new_dir, tree, validate
from svq.errors import UserError, some_of
from svq.progress import progress

TABLES = (".csv", ".tsv")


def find(options):
    """Finds the recordings of the corpus and the genders of its speakers, where known; prints what it passes over.

    Returns (recordings, {speaker id: gender}). UserError where the corpus is neither a folder nor a table, or an option
    does not go with it.
    """
    if os.path.isdir(options.corpus):
        if options.root:
            raise UserError("--root goes with a table; the paths of a tree are below its folder")
        found, empty = tree.of_tree(options.corpus, options.speaker_level)
        if empty:
            print(f"passed over, without recordings: {some_of(empty)}", file=sys.stderr)
        return found, {}
    if not os.path.exists(options.corpus):
        raise UserError(f"{options.corpus}: no such folder or table")
    if not options.corpus.lower().endswith(TABLES):
        raise UserError(f"{options.corpus}: neither a folder nor a table; the name of a table ends in .csv or .tsv")
    if options.speaker_level:
        raise UserError("--speaker-level goes with a tree; a table has a column `speaker`")
    found, genders, unused = tree.of_table(options.corpus, options.root)
    if unused:
        print(f"passed over: the columns {some_of(unused)}", file=sys.stderr)
    return found, {tree.speaker_id(speaker): gender for speaker, gender in genders.items()}


def require_place(path) -> None:
    """Refuses, by UserError, a folder that holds anything but a data directory."""
    if os.path.isdir(path) and os.listdir(path) and not os.path.exists(os.path.join(path, "utt2spk")):
        raise UserError(f"{path}: holds something else than a data directory; name another folder")


def say_what_was_there(path, before, keep) -> None:
    """Prints which files of an earlier data directory are kept, and which are gone with its recordings."""
    gone = [name for name in before if not os.path.exists(os.path.join(path, name))]
    if keep:
        print(f"{path}: kept {some_of(keep)}; utils/validate_data_dir.sh says whether the recordings of now are in them",
              file=sys.stderr)
    if gone:
        print(f"{path}: removed {some_of(gone)}, made of the recordings that were there", file=sys.stderr)


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("corpus", help="folder of the tree, or the table")
    arguments.add_argument("data", help="data directory to write")
    arguments.add_argument("--speaker-level", type=int, default=0,
                           help="level of the folders that are speakers, from 1; 0: the first, unless names tell otherwise")
    arguments.add_argument("--root", default="", help="folder that relative paths in a table start from; empty: the table's own")
    arguments.add_argument("--check-audio", choices=validate.AUDIO_CHECKS, default="header",
                           help="how to check recordings; header: open each, which gives utt2dur; decode: also look for silence")
    arguments.add_argument("--threads", type=int, default=4, help="recordings opened at once")
    arguments.add_argument("--limit", type=int, default=20, help="unreadable recordings shown")
    options = arguments.parse_args()
    if options.speaker_level < 0:
        arguments.error(f"--speaker-level {options.speaker_level}: levels count from 1")
    require_place(options.data)
    found, genders = find(options)
    rows = tree.named(found)
    seconds = [None] * len(rows)
    if options.check_audio != "none":
        seconds = tree.lengths([one for _, _, one in rows], options.check_audio == "decode", options.threads, options.limit,
                               lambda line: print(line, file=sys.stderr), lambda of: progress(of, len(rows), "opening"))
    before = new_dir.derived(options.data)
    keep = [name for name in before if name.startswith(("trials", "enroll.")) or (name == "spk2gender" and not genders)]
    speakers, utterances = new_dir.write_data_dir(
        options.data, [(utt, speaker, one.path, length) for (utt, speaker, one), length in zip(rows, seconds)], genders, keep=keep)
    hours = "" if options.check_audio == "none" else f", {sum(seconds) / 3600:.2f} h"
    print(f"{options.data}: {speakers} speakers, {utterances} utterances{hours}")
    say_what_was_there(options.data, before, keep)
    if genders and not os.path.exists(os.path.join(options.data, "spk2gender")):
        print(f"{options.data}: no spk2gender, as {options.corpus} has no gender of some speakers", file=sys.stderr)


if __name__ == "__main__":
    cli.run_main(main)
