#!/usr/bin/env bash
# Allocates bits to the layers of a float model, by their sensitivities (steps/sensitivity.sh). In the config, `allocate`
# says for which size, and `quant` says how weights will be quantized.
# Writes <bits.tsv>, which training takes, and beside it frontier.tsv: the least total sensitivity at each size.
#
# Usage: steps/allocate.sh [options] <config.yaml> <model-dir> <bits.tsv>
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.allocate but config model out frontier set")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "allocate.sh: needs <config.yaml> <model-dir> <bits.tsv> (--help says more)" >&2; exit 2; }
config=$1 model=${2%/} bits=$3
dir=$(dirname -- "$bits")
outs=(--out "$bits")
if ((frontier_points)); then outs+=(--out "$dir/frontier.tsv"); fi
step --config "$config" --in "$model/model.safetensors" --in "${sensitivity:-$model/sensitivity.tsv}" "${outs[@]}"

$cmd "$dir/log/allocate.log" python3 -m svq.bin.allocate "${to_allocate[@]}" --config "$config" --model "$model" \
  --out "$bits" --frontier "$dir/frontier.tsv"
