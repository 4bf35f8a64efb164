#!/usr/bin/env bash
# Checks a Kaldi data directory: says file, line and what is wrong, and exits 1 if anything is.
# Usage: utils/validate_data_dir.sh [options] <data-dir>
set -euo pipefail
check_audio=header  # header: open every recording; decode: decode it whole, find silence, too; none: leave it
nj=4                # recordings opened at once
limit=20            # problems shown; the others are counted
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 1 ]] || { echo "usage: ${0##*/} [options] <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir validate --check-audio "$check_audio" --threads "$nj" --limit "$limit" -- "$1"
