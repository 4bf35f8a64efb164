#!/usr/bin/env bash
# Makes a Kaldi data directory from a tree with a folder for each speaker, such as LibriSpeech's
# (84/121123/84-121123-0001.flac) and VoxCeleb's (id10001/1zcIwhmdeo4/00001.wav), or from a table: a .csv or .tsv with the
# columns path, speaker and, where known, gender. Utterances are called SPEAKER-FOLDERS-NAME. Copies and decodes nothing.
# Names the recordings that cannot be read; if there are any, it writes nothing.
# Usage: utils/data_from_tree.sh [options] <folder-or-table> <data-dir>
set -euo pipefail
speaker_level=0     # level of the folders below <folder> that are speakers, from 1; 0: the first, unless names tell otherwise
root=               # folder that relative paths in a table start from; empty: the table's own
check_audio=header  # header: open every recording, which gives utt2dur; decode: also look for silence; none: open none
nj=4                # recordings opened at once
limit=20            # unreadable recordings shown
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 2 ]] || { echo "usage: ${0##*/} [options] <folder-or-table> <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_from_tree --speaker-level="$speaker_level" --root="$root" --check-audio "$check_audio" \
  --threads "$nj" --limit "$limit" -- "$1" "$2"
