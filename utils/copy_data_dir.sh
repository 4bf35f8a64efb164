#!/usr/bin/env bash
# Copies a data directory that was made elsewhere: its tables and enroll.spk2utt, with absolute paths in wav.scp, but no
# features or trial lists. Recordings stay where they are.
# Usage: utils/copy_data_dir.sh [options] <src-dir> <dest-dir>
set -euo pipefail
root=.  # folder that relative paths in wav.scp start from
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 2 ]] || { echo "usage: ${0##*/} [options] <src-dir> <dest-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir copy --root="$root" -- "$1" "$2"
