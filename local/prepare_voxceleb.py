#!/usr/bin/env python3
"""Makes the Kaldi data directories train, dev and vox1 of VoxCeleb1 and VoxCeleb2 in their official layouts.

train   VoxCeleb2 dev (5,994 speakers), less the speakers set aside with --dev-part dev
dev     speakers to calibrate on, from VoxCeleb2 test (--dev-part test) or set aside from VoxCeleb2 dev; some
        recordings of each, from as many videos as there are; `trials`: all target pairs and a draw of
        non-target pairs, of the same gender if --vox2-meta is given
vox1    the recordings of VoxCeleb1 that a trial list names, trials_{O,E,H} (cleaned) and _original

Decodes nothing: an m4a becomes an ffmpeg pipe in wav.scp.
"""

from __future__ import annotations

import os
import shlex

import numpy as np
import voxceleb_tree as tree
from corpus_tools import check_disjoint, draw_trials, safe_id

from svq.atomic import atomic_write
from svq.cli import boolean, parser, run_main
from svq.data.new_dir import need_folder, wav_value, write_data_dir
from svq.errors import UserError, located, some_of
from svq.progress import progress


def value_of(path: str) -> str:
    """Writes the wav.scp value of a recording: the file or, for m4a, a pipe that decodes it at 16 kHz, mono."""
    if path.lower().endswith(".m4a"):
        return f"ffmpeg -nostdin -v 8 -i {shlex.quote(wav_value(path))} -f wav -ac 1 -ar 16000 - |"
    return wav_value(path)


def rows_of(speaker: str, paths: list[str]):
    """Lists the rows for `write_data_dir` of one speaker, sorted; paths end in <video>/<clip>.<suffix>."""
    rows = []
    for path in paths:
        _, video, name = path.rsplit("/", 2)
        utt = f"{speaker}-{video}-{name.rpartition('.')[0]}"
        if utt != safe_id(utt, "-"):
            raise UserError(f"{path}: video and clip must be named with letters, digits, _ - and . only")
        rows.append((utt, speaker, value_of(path), None))
    return sorted(rows)


def list_vox1(root: str, file_list: str):
    """Yields (speaker, paths) of all of VoxCeleb1."""
    root = need_folder(root, "VoxCeleb1")
    if file_list:
        parts = tree.read_file_list(file_list, root, tree.VOX1_SUFFIXES)
        return (item for part in parts.values() for item in part.items())
    folders = tree.vox1_folders(root)
    if not folders:
        raise UserError(f"{root}: no {' or '.join(tree.VOX1_FOLDERS)} with speakers' folders (VoxCeleb1)")
    return tree.scan(tree.speaker_folders(folders), tree.VOX1_SUFFIXES)


def list_vox2(root: str, file_list: str, part: str):
    """Lists the speakers of a part of VoxCeleb2, dev or test; gives with them a function that lists recordings.

    The function takes speakers and yields (speaker, paths) in their order.
    """
    root = need_folder(root, "VoxCeleb2")
    if file_list:
        paths = tree.read_file_list(file_list, root, tree.VOX2_SUFFIXES)[part]
        found, listing = list(paths), lambda chosen: ((speaker, paths[speaker]) for speaker in chosen)
    else:
        folder = tree.vox2_folder(root, part)
        speakers = tree.speaker_folders([folder] if folder else [])
        found, listing = list(speakers), lambda chosen: tree.scan({s: speakers[s] for s in chosen}, tree.VOX2_SUFFIXES)
    if not found:
        names = " or ".join(tree.VOX2_FOLDERS[part])
        mend = "; --dev-part dev does without it" if part == "test" else ""
        raise UserError(f"{file_list or root}: no recordings of VoxCeleb2 {part} ({names}){mend}")
    return found, listing


def some_utterances(paths: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Draws `count` recordings of a speaker, or all, from as many videos as possible: sessions must differ."""
    videos: dict[str, list] = {}
    for path in sorted(paths):
        videos.setdefault(path.split("/")[-2], []).append(path)
    queues = [[videos[name][i] for i in rng.permutation(len(videos[name]))] for name in sorted(videos)]
    order = [queues[i] for i in rng.permutation(len(queues))]
    drawn = [queue[turn] for turn in range(max(map(len, order))) for queue in order if turn < len(queue)]
    return drawn[:count]


def write_vox1(args, counts: dict[str, int]) -> list[str]:
    """Writes data/vox1 and its trial lists; returns its speakers. Reads all lists before it writes anything."""
    lists = tree.trial_files(args.lists, args.originals)
    known: dict[str, tuple] = {}
    for speaker, paths in progress(list_vox1(args.vox1, args.vox1_list), desc="listing VoxCeleb1 (speakers)"):
        for row in rows_of(speaker, paths):
            if row[0] in known:
                raise UserError(f"{row[2]}: the same clip as {known[row[0]][2]}; remove one of them")
            known[row[0]] = row
    used: set[str] = set()
    for name, published in lists.items():
        path = os.path.join(args.trials, published)
        if not os.path.exists(path):
            raise UserError(f"{path}: no such file; it is published at {tree.META}{published}")
        absent: dict[str, int] = {}
        number = 0
        for number, _, enroll, test in tree.read_trials(path):
            for utt in (enroll, test):
                if utt in known:
                    used.add(utt)
                else:
                    absent.setdefault(utt, number)
        if absent:
            first = next(iter(absent))
            text = f"{len(absent)} recordings of the list are not in {args.vox1}: {some_of(absent)}"
            raise UserError(located(path, absent[first], text))
        tree.check_count(counts, name, number, path)
    genders = tree.read_genders(args.vox1_meta) if args.vox1_meta else {}
    folder = os.path.join(args.data, "vox1")
    rows = [known[utt] for utt in sorted(used)]
    speakers, utterances = write_data_dir(folder, rows, genders)
    print(f"{folder}: {speakers} speakers, {utterances} of {len(known)} utterances (those in a trial list)")
    for name, published in lists.items():
        with atomic_write(os.path.join(folder, name)) as file:
            number = 0
            for number, target, enroll, test in tree.read_trials(os.path.join(args.trials, published)):
                file.write(f"{enroll} {test} {'target' if target else 'nontarget'}\n")
        print(f"{folder}/{name}: {number} trials ({published})")
    return sorted({row[1] for row in rows})


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--vox1", required=True, help="VoxCeleb1: wav/idNNNNN, or dev/wav and test/wav")
    options.add_argument("--vox2", required=True, help="VoxCeleb2: dev/aac/idNNNNN and test/aac/idNNNNN")
    options.add_argument("--trials", required=True, help="folder of the official trial lists")
    options.add_argument("--data", default="data", help="writes <data>/train, <data>/dev, <data>/vox1")
    options.add_argument("--lists", default="O E H", help="Vox1 lists to prepare")
    options.add_argument("--originals", type=boolean, default=True, help="also the original lists, besides the cleaned ones")
    options.add_argument("--dev-part", choices=("test", "dev"), default="test", help="part of VoxCeleb2 for dev")
    options.add_argument("--dev-speakers", type=int, default=100, help="speakers in dev")
    options.add_argument("--dev-utts", type=int, default=20, help="utterances of each of them")
    options.add_argument("--num-nontarget", type=int, default=100000, help="non-target pairs of dev/trials, at most")
    options.add_argument("--vox1-list", default="", help="file of paths, instead of listing VoxCeleb1")
    options.add_argument("--vox2-list", default="", help="file of paths, instead of listing VoxCeleb2")
    options.add_argument("--vox1-meta", default="", help="vox1_meta.csv, for genders")
    options.add_argument("--vox2-meta", default="", help="vox2_meta.csv, for genders")
    options.add_argument("--counts", default="", help="numbers that must be found, e.g. local/voxceleb.counts")
    options.add_argument("--seed", type=int, default=0, help="seed of the development speakers, utterances and trials")
    args = options.parse_args()
    counts = tree.read_counts(args.counts)

    train_speakers, list_train = list_vox2(args.vox2, args.vox2_list, "dev")
    tree.check_count(counts, "vox2_dev.speakers", len(train_speakers), args.vox2)
    dev_pool, list_dev = train_speakers, list_train
    if args.dev_part == "test":
        dev_pool, list_dev = list_vox2(args.vox2, args.vox2_list, "test")
        tree.check_count(counts, "vox2_test.speakers", len(dev_pool), args.vox2)
    limit = len(dev_pool) - (args.dev_part == "dev")
    if not 2 <= args.dev_speakers <= limit:
        raise UserError(f"--dev-speakers is {args.dev_speakers}: between 2 and {limit} can be taken from {args.dev_part}")
    rng = np.random.default_rng(args.seed)
    dev_speakers = sorted(dev_pool[i] for i in rng.permutation(len(dev_pool))[: args.dev_speakers])
    aside = set(dev_speakers)
    if args.dev_part == "dev":
        train_speakers = [speaker for speaker in train_speakers if speaker not in aside]
    check_disjoint({"train": train_speakers, "dev": dev_speakers})

    test_speakers = write_vox1(args, counts)
    check_disjoint({"train": train_speakers, "dev": dev_speakers, "vox1": test_speakers})
    genders = tree.read_genders(args.vox2_meta) if args.vox2_meta else {}

    dev_all, dev = 0, []
    for speaker, paths in list_dev(dev_speakers):
        dev_all += len(paths)
        dev += rows_of(speaker, some_utterances(paths, args.dev_utts, rng))
    folder = os.path.join(args.data, "train")
    listing = progress(list_train(train_speakers), len(train_speakers), "listing VoxCeleb2 (speakers)")

    def check_train(_, utterances: int) -> None:
        found = utterances + (dev_all if args.dev_part == "dev" else 0)
        tree.check_count(counts, "vox2_dev.utterances", found, args.vox2)

    rows = (row for speaker, paths in listing for row in rows_of(speaker, paths))
    speakers, utterances = write_data_dir(folder, rows, genders, check_train)
    print(f"{folder}: {speakers} speakers, {utterances} utterances")

    folder = os.path.join(args.data, "dev")
    speakers, utterances = write_data_dir(folder, dev, genders)
    print(f"{folder}: {speakers} speakers, {utterances} of their {dev_all} utterances")
    print(draw_trials(folder, args.num_nontarget, os.path.exists(os.path.join(folder, "spk2gender")), args.seed))


if __name__ == "__main__":
    run_main(main)
