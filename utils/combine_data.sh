#!/usr/bin/env bash
# Writes the union of data directories. An utterance that is in two of them is an error; tables that not all
# of them have are left out, and named; trial lists are not combined.
# Usage: utils/combine_data.sh <dest-dir> <src-dir1> <src-dir2> ...
set -euo pipefail
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -ge 2 ]] || { echo "usage: ${0##*/} <dest-dir> <src-dir1> ... (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir combine -- "$@"
