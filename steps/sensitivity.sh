#!/usr/bin/env bash
# Measures how sensitive each layer of a trained float model is to quantization: the average trace of the Hessian of its
# training loss. Writes <model-dir>/sensitivity.tsv, which steps/allocate.sh takes.
#
# Usage: steps/sensitivity.sh [options] <data-dir> <model-dir>
#   e.g. steps/sensitivity.sh data/train exp/teacher
#
# <data-dir> is what the model was trained on. With --objective embedding it may be any speech: the loss is then the
# distance to the embeddings of the model itself. A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py  # dispatcher
mem=8G      # memory the dispatcher reserves
_forward_to=("svq.bin.sensitivity but model data out")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "sensitivity.sh: needs <data-dir> <model-dir> (--help says more)" >&2; exit 2; }
data=${1%/} dir=${2%/}
reads=(--reads settings --config "$dir/config.yaml")
if [[ -n $input ]]; then reads=(--reads "$input"); fi
step "${reads[@]}" --in "$dir/model.safetensors" --maybe "$dir/head.safetensors" --speech "$data" --out "$dir/sensitivity.tsv" --neutral device

resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
if ((min_probes > max_probes)); then to_sensitivity+=(--min-probes "$max_probes"); fi

$cmd "${resources[@]}" "$dir/log/sensitivity.log" python3 -m svq.bin.sensitivity "${to_sensitivity[@]}" \
  --model "$dir" --data "$data" --out "$dir/sensitivity.tsv"
