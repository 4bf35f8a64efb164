#!/usr/bin/env bash
# Makes one data directory of several. An utterance that is in two of them is an error. Tables that some of them lack are
# left out and named. Trial lists are not combined.
# Usage: utils/combine_data.sh <dest-dir> <src-dir1> <src-dir2> ...
set -euo pipefail
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -ge 2 ]] || { echo "usage: ${0##*/} <dest-dir> <src-dir1> ... (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir combine -- "$@"
