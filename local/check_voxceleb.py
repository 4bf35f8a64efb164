#!/usr/bin/env python3
"""Checks that the corpora of the VoxCeleb recipe are there. Says what is missing and where it is published.

Exits with 0 if nothing is missing, else with 1. Looks only at folders and at a first recording; lists no corpus.
"""

from __future__ import annotations

import os
import shutil

import voxceleb_tree as tree

from svq.cli import boolean, parser, run_main
from svq.errors import UserError


def check_vox1(root: str):
    if not tree.vox1_folders(root):
        yield f"VoxCeleb1: no {' or '.join(tree.VOX1_FOLDERS)} in {root or '(--vox1 not given)'}; published at {tree.SITE}"


def check_vox2(root: str, parts: tuple[str, ...]):
    m4a = []
    for part in parts:
        folder = tree.vox2_folder(root, part)
        if not folder:
            text = f"VoxCeleb2 {part}: no {' or '.join(tree.VOX2_FOLDERS[part])} in {root or '(--vox2 not given)'}"
            mend = " (--dev-part dev does without)" if part == "test" else ""
            yield f"{text}; published at {tree.SITE}{mend}"
        elif first_suffix(folder) == ".m4a":
            m4a.append(folder)
    if m4a and not shutil.which("ffmpeg"):
        text = f"ffmpeg: not found, and {' and '.join(m4a)} hold m4a"
        yield f"{text}; install it with your package manager (https://ffmpeg.org)"


def first_suffix(folder: str) -> str:
    """Gives the suffix of some recording under `folder`, "" if there is none."""
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(tree.VOX2_SUFFIXES) and not name.startswith("."):
                return os.path.splitext(name)[1].lower()
    return ""


def check_trials(folder: str, lists: dict[str, str]):
    for name, published in lists.items():
        if not os.path.isfile(os.path.join(folder, published)):
            yield f"{name}: no {published} in {folder or '(--trials not given)'}; published at {tree.META}{published}"


def check_folder(name: str, root: str, parts: tuple[str, ...], site: str):
    """Yields a line if `root` holds none of the folders `parts`, neither directly nor in a folder called `name`."""
    roots = (root, os.path.join(root, name))
    if root and not any(os.path.isdir(os.path.join(r, part)) for r in roots for part in parts):
        yield f"{name}: no {' or '.join(parts)} in {root}; published at {site}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--vox1", default="", help="VoxCeleb1")
    options.add_argument("--vox2", default="", help="VoxCeleb2")
    options.add_argument("--trials", default="", help="folder of the official trial lists")
    options.add_argument("--musan", default="", help="MUSAN; empty: not used")
    options.add_argument("--rirs", default="", help="RIRS_NOISES; empty: not used")
    options.add_argument("--lists", default="O E H", help="Vox1 lists to prepare")
    options.add_argument("--originals", type=boolean, default=True, help="also the original lists, besides the cleaned ones")
    options.add_argument("--dev-part", choices=("test", "dev"), default="test", help="part of VoxCeleb2 for dev")
    args = options.parse_args()
    missing = [
        *check_vox1(args.vox1),
        *check_vox2(args.vox2, ("dev", "test") if args.dev_part == "test" else ("dev",)),
        *check_trials(args.trials, tree.trial_files(args.lists, args.originals)),
        *check_folder("musan", args.musan, ("noise", "music", "speech"), "https://www.openslr.org/17/"),
        *check_folder("RIRS_NOISES", args.rirs, ("simulated_rirs",), "https://www.openslr.org/28/"),
    ]
    for line in missing:
        print(f"missing: {line}")
    if missing:
        raise UserError(f"{len(missing)} things are missing, listed above")
    print("VoxCeleb1, VoxCeleb2 and the trial lists are there")
    return 0


if __name__ == "__main__":
    run_main(main)
