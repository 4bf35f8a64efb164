#!/usr/bin/env bash
# Mends a Kaldi data directory: sorts every table, drops lines that are malformed or twice and utterances
# that are not in all files, rewrites spk2utt, and says what it dropped. The files as they were stay in
# <data-dir>/.backup. Trial lists are not touched.
# Usage: utils/fix_data_dir.sh [options] <data-dir>
set -euo pipefail
check_audio=none  # header or decode: drop utterances whose recording does not open, or decode, too
nj=4              # recordings opened at once
limit=20          # dropped lines shown; all of them are in .backup/dropped
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 1 ]] || { echo "usage: ${0##*/} [options] <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir fix --check-audio "$check_audio" --threads "$nj" --limit "$limit" -- "$1"
