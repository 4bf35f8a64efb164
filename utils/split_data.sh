#!/usr/bin/env bash
# Splits a data directory for jobs into <data-dir>/split<N>/1 ... <N>, each with whole speakers, or with --per-utt into
# <data-dir>/split<N>utt/1 ... <N>.
# Usage: utils/split_data.sh [options] <data-dir> <num-jobs>
set -euo pipefail
per_utt=false  # split by utterance, not by speaker
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 2 ]] || { echo "usage: ${0##*/} [options] <data-dir> <num-jobs> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir split --per-utt "$per_utt" -- "$1" "$2"
