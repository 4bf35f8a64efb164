#!/usr/bin/env bash
# Copies a data directory at other speeds, through SoX pipes in wav.scp. Utterances and speakers of a copy count as new
# ones: their ids begin with sp<factor>-. Features are left out.
# Usage: utils/perturb_data_dir_speed.sh [options] <factor>[,<factor>...] <src-dir> <dest-dir>
# e.g.:  utils/perturb_data_dir_speed.sh --keep-original true 0.9,1.1 data/train data/train_sp
set -euo pipefail
keep_original=false  # put the unchanged utterances into <dest-dir>, too
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 3 ]] || { echo "usage: ${0##*/} [options] <factors> <src-dir> <dest-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir perturb-speed --keep-original "$keep_original" -- "$@"
