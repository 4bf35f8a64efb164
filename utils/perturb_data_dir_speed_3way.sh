#!/usr/bin/env bash
# The unchanged data directory and its copies at 0.9 and 1.1 times the speed, in one.
# Usage: utils/perturb_data_dir_speed_3way.sh <src-dir> <dest-dir>
set -euo pipefail
. utils/parse_options.sh
[[ $# -eq 2 ]] || { echo "usage: ${0##*/} <src-dir> <dest-dir> (--help says more)" >&2; exit 2; }
utils/perturb_data_dir_speed.sh --keep-original true 0.9,1.1 "$1" "$2"
