#!/usr/bin/env bash
# Makes one data directory of another and its copies at 0.9 and 1.1 times the speed.
# Usage: utils/perturb_data_dir_speed_3way.sh <src-dir> <dest-dir>
set -euo pipefail
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 2 ]] || { echo "usage: ${0##*/} <src-dir> <dest-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"
step --in "$1/utt2spk" --in "$1/wav.scp" --recordings "$1/wav.scp" --maybe "$1/segments" --maybe "$1/reco2file_and_channel" \
  --out "$2/wav.scp" --out "$2/utt2spk"
bash "$SVQ_ROOT/utils/perturb_data_dir_speed.sh" --keep-original true 0.9,1.1 "$1" "$2"
