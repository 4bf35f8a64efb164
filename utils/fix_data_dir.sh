#!/usr/bin/env bash
# Mends a Kaldi data directory: sorts every table, drops malformed and repeated lines and utterances that some file lacks,
# rewrites spk2utt, and says what it dropped. The original files stay in <data-dir>/.backup. Trial lists stay untouched.
# Usage: utils/fix_data_dir.sh [options] <data-dir>
set -euo pipefail
check_audio=none  # header, decode: also drop utterances whose recording does not open, or does not decode
nj=4              # recordings opened at once
limit=20          # dropped lines shown; all of them are in .backup/dropped
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 1 ]] || { echo "usage: ${0##*/} [options] <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir fix --check-audio "$check_audio" --threads "$nj" --limit "$limit" -- "$1"
