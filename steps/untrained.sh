#!/usr/bin/env bash
# Measures a float network, quantized in many ways without training, on a trial list: <out-dir>/untrained.{tsv,md}.
#
# Usage: steps/untrained.sh [options] <data-dir> <model-dir> <out-dir>
#   e.g. steps/untrained.sh --calibration-data data/train data/test exp/teacher exp/teacher/untrained
#
# A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py  # dispatcher
mem=8G      # memory the dispatcher reserves
_forward_to=("svq.bin.untrained but model data out")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "untrained.sh: needs <data-dir> <model-dir> <out-dir> (--help says more)" >&2; exit 2; }
data=${1%/} model=${2%/} out=${3%/}
step --reads "$input" --in "$model/model.safetensors" --in "${trials:-$data/trials}" --speech "$data" \
  ${calibration_data:+--speech "$calibration_data"} --out "$out/untrained.tsv" --also "$out" --neutral device

fresh "$out/embeddings"
resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
$cmd "${resources[@]}" "$out/log/untrained.log" python3 -m svq.bin.untrained "${to_untrained[@]}" \
  --model "$model" --data "$data" --out "$out"
