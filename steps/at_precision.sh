#!/usr/bin/env bash
# Takes precisions out of a nested model: writes each as an ordinary model folder, <model-dir>-<bits>bit, which all other
# steps take. Each of these folders packs to a file of its own; the nested folder packs to one file that holds them all.
#
# Usage: steps/at_precision.sh [options] <model-dir> <bits> [<bits> ...]
set -euo pipefail
cmd=run.py      # dispatcher
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# >= 2)) || { echo "at_precision.sh: needs <model-dir> <bits> [<bits> ...] (--help says more)" >&2; exit 2; }
dir=${1%/}
shift
parts=()
for bits in "$@"; do
  parts+=(--piece "$bits" --out "$dir-${bits}bit/model.safetensors" --out "$dir-${bits}bit/config.yaml" \
    --also "$dir-${bits}bit/head.safetensors" --also "$dir-${bits}bit/speakers.txt")
done
step --in "$dir/model.safetensors" --in "$dir/config.yaml" "${parts[@]}"

for bits in "${pieces[@]}"; do
  $cmd "$dir-${bits}bit/log/at_precision.log" \
    python3 -m svq.bin.at_precision --model "$dir" --precision "$bits" --out "$dir-${bits}bit"
done
