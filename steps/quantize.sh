#!/usr/bin/env bash
# Quantizes a trained network as it is, without finetuning. The `quant` part of the training config says how. Its `ptq`
# part says whether batch norms are folded into convolutions before, and biases corrected after; the latter needs --data.
#
# Usage: steps/quantize.sh [options] <config.yaml> <float-model-dir> <model-dir>
set -euo pipefail
cmd=run.py  # dispatcher
mem=4G      # memory the dispatcher reserves
_forward_to=("svq.bin.quantize but config init out set")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "quantize.sh: needs <config.yaml> <float-model-dir> <model-dir> (--help says more)" >&2; exit 2; }
config=$1 init=${2%/} dir=${3%/}
step --reads "$input" --config "$config" --in "$init/model.safetensors" ${bits:+--in "$bits"} ${data:+--speech "$data"} \
  --out "$dir/model.safetensors" --out "$dir/config.yaml" --also "$dir/head.safetensors" --also "$dir/speakers.txt" --neutral device

resources=(--mem "$mem")
if [[ -z $data ]]; then
  to_quantize+=(--device cpu)                     # rounding takes no time
elif [[ $device == cuda* ]]; then
  resources+=(--gpu 1)
fi
$cmd "${resources[@]}" "$dir/log/quantize.log" python3 -m svq.bin.quantize "${to_quantize[@]}" --config "$config" \
  --init "$init" --out "$dir"
