#!/usr/bin/env python3
"""Makes a Kaldi data directory for testing of CommonBench: clips of Common Voice and the list of comparisons.

`trials` has the comparisons in their order, wav.scp the clips that they name, utt2domain the languages. A speaker is a
client_id in the tables of Common Voice (--speakers tables) or, where only the clips were downloaded, all clips that
target trials join (--speakers trials). In either case a label that contradicts the speakers is an error.
"""

from __future__ import annotations

import os

import commonbench_tree as tree
from trial_lists import write_trials

from svq.cli import boolean, parser, run_main
from svq.data.audio import duration
from svq.data.new_dir import need_folder, wav_value, write_data_dir
from svq.data.table import write_table
from svq.errors import UserError, located, some_of
from svq.progress import progress

ID_LENGTH = 16  # characters of a client_id (of 128) that name its speaker


def kept(path: str, columns: str, languages: set[str], gone=frozenset()):
    """Yields the comparisons within `languages` (empty: all) that have no clip among `gone`."""
    for row in tree.read_comparisons(path, columns):
        clips = row[2:]
        if not gone.intersection(clips) and (not languages or languages.issuperset(map(tree.language_of, clips))):
            yield row


def joined(comparisons) -> dict[str, str]:
    """Finds the speaker of each clip, named by the first of all clips that target trials join to it, directly or not."""
    parent: dict[str, str] = {}

    def root(clip: str) -> str:
        while parent.setdefault(clip, clip) != clip:
            parent[clip] = parent[parent[clip]]
            clip = parent[clip]
        return clip

    for _, target, enroll, test in comparisons:
        a, b = root(enroll), root(test)
        if target:
            parent[max(a, b)] = min(a, b)
    return {clip: root(clip) for clip in parent}


def clients(clips: dict[str, int], folders, path: str) -> tuple[dict[str, str], dict[str, str]]:
    """Finds (clip -> speaker, speaker -> m or f) in the tables of Common Voice; `clips`: clip -> first line that names it."""
    of_language: dict[str, set[str]] = {}
    for clip in clips:
        of_language.setdefault(tree.language_of(clip), set()).add(clip)
    speakers, told, whole = {}, {}, {}
    for language, members in progress(sorted(of_language.items()), len(of_language), "reading tables (languages)"):
        rows = tree.read_tables(folders.get(language, []), members)
        absent = sorted(members - set(rows), key=lambda clip: (clips[clip], clip))
        if absent:
            text = f"{some_of(absent)} in no table *.tsv of {language}; --speakers trials does without the tables"
            raise UserError(located(path, clips[absent[0]], text))
        for clip, (client, gender) in rows.items():
            name = f"cv-{client[:ID_LENGTH]}"
            if whole.setdefault(name, client) != client:
                raise UserError(f"two speakers would be called {name}: {whole[name]} and {client}")
            speakers[clip] = name
            told.setdefault(name, set()).add(gender)
    # A gender is unknown for speakers who gave two, or none.
    return speakers, {name: "".join(said - {""}) for name, said in told.items() if len(said - {""}) == 1}


def check_labels(comparisons, speakers: dict[str, str], path: str, mend: str) -> None:
    for number, target, enroll, test in comparisons:
        if target != (speakers[enroll] == speakers[test]):
            said = "target" if target else "non-target"
            other = "one speaker" if speakers[enroll] == speakers[test] else "two speakers"
            raise UserError(located(path, number, f"a {said} trial of {enroll} and {test}, of {other}{mend}"))


def find_clips(comparisons, folders, path: str, drop_missing: bool) -> tuple[dict[str, str], dict[str, int], set[str]]:
    """Finds the clips of comparisons: (clip -> path, clip -> first line that names it, missing clips).

    UserError where clips are missing, unless `drop_missing`, or where none is found.
    """
    lines: dict[str, int] = {}
    for number, _, *clips in comparisons:
        for clip in clips:
            lines.setdefault(clip, number)
    found, gone = {}, set()
    for clip in progress(lines, len(lines), "looking for clips"):
        place = tree.find_clip(folders.get(tree.language_of(clip), []), clip)
        if place:
            found[clip] = place
        else:
            gone.add(clip)
    if not lines:
        raise UserError(f"{path}: no comparison of two clips in it; --languages can keep more of them")
    if not found or (gone and not drop_missing):
        order = sorted(gone, key=lambda clip: (lines[clip], clip))
        text = f"{len(gone)} of {len(lines)} clips are not there: {some_of(order)}"
        raise UserError(located(path, lines[order[0]], f"{text}; --drop-missing true leaves out their trials"))
    return found, lines, gone


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", required=True, help="folder of <language>/clips")
    options.add_argument("--comparisons", required=True, help="list of comparisons: two clips and a label a line")
    options.add_argument("--columns", default="", help="columns of the list: enroll, test, label, -; empty: found out")
    options.add_argument("--speakers", choices=("tables", "trials"), default="tables", help="what makes a speaker")
    options.add_argument("--languages", default="", help="languages to keep; empty: all")
    options.add_argument("--drop-missing", type=boolean, default=False, help="leave out trials of missing clips")
    options.add_argument("--data", default="data/commonbench", help="data directory to write")
    args = options.parse_args()

    folders = tree.language_folders(need_folder(args.corpus, "Common Voice"))
    path, languages = args.comparisons, set(args.languages.split())
    found, lines, gone = find_clips(kept(path, args.columns, languages), folders, path, args.drop_missing)

    def comparisons():
        return kept(path, args.columns, languages, gone)

    genders: dict[str, str] = {}
    if args.speakers == "tables":
        used = {clip: lines[clip] for row in comparisons() for clip in row[2:]}
        speakers, genders = clients(used, folders, path)
        check_labels(comparisons(), speakers, path, "; --speakers trials goes by the labels alone")
    else:
        speakers = joined(comparisons())
        check_labels(comparisons(), speakers, path, ", joined by other target trials")
    utterances = {clip: f"{speaker}-{clip}" for clip, speaker in speakers.items()}
    order = sorted(speakers, key=lambda clip: (speakers[clip], clip))
    rows = []
    for clip in progress(order, len(order), "reading clips"):
        rows.append((utterances[clip], speakers[clip], wav_value(found[clip]), duration(wav_value(found[clip]))))
    count, total = write_data_dir(args.data, rows, genders)
    write_table(os.path.join(args.data, "utt2domain"), ((utterances[c], tree.language_of(c)) for c in order))
    print(f"{args.data}: {count} speakers, {total} utterances, {sum(row[3] for row in rows) / 3600:.2f} h")
    if gone:
        print(f"{args.data}: left out the trials of {len(gone)} clips that are not in {args.corpus}")
    lists = ((target, utterances[enroll], utterances[test]) for _, target, enroll, test in comparisons())
    print(write_trials(os.path.join(args.data, "trials"), lists))


if __name__ == "__main__":
    run_main(main)
