#!/usr/bin/env bash
# Gives a network that was trained elsewhere a classifier for the speakers of a data directory, without training: each
# class weight is the mean direction of the embeddings of its speaker. Writes <model-dir>/head.safetensors and
# speakers.txt, which finetuning with labels and sensitivities with labels need.
#
# Usage: steps/fit_head.sh [options] <data-dir> <model-dir>
#   e.g. steps/fit_head.sh data/train exp/imported
set -euo pipefail
cmd=run.py  # dispatcher
mem=4G      # memory the dispatcher reserves
_forward_to=("svq.bin.fit_head but model data")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "fit_head.sh: needs <data-dir> <model-dir> (--help says more)" >&2; exit 2; }
data=${1%/} dir=${2%/}
step --reads "$input" --in "$dir/model.safetensors" --speech "$data" --out "$dir/head.safetensors" --out "$dir/speakers.txt" \
  --neutral device

resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
$cmd "${resources[@]}" "$dir/log/fit_head.log" python3 -m svq.bin.fit_head "${to_fit_head[@]}" \
  --model "$dir" --data "$data"
