#!/usr/bin/env bash
# Measures a float network quantized without training in many ways, on a trial list: <out-dir>/untrained.{tsv,md}.
#
# Usage: steps/untrained.sh [options] <data-dir> <model-dir> <out-dir>
#   e.g. steps/untrained.sh --calibration-data data/train data/test exp/teacher exp/teacher/untrained
#
# A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py         # dispatcher
num_threads=1      # CPU threads
mem=8G             # memory the dispatcher reserves
device=cpu         # cpu or cuda (one GPU)
trials=            # trial list; empty: <data-dir>/trials
calibration_data=  # data directory of unlabelled speech to calibrate on; needed for method calibrated
calibration_utts=128  # utterances of it
bits=8,4,3,2,1     # bits
methods=uniform,integer,width,count,lloyd,calibrated  # how weights are quantized
codebooks=layer,channel  # one codebook for each layer, for each output channel, or both
input=auto         # auto, feats (feats.scp) or wav (wav.scp)
max_utts=0         # so many utterances of the list, spread over its speakers; 0: all
bootstrap=200      # resamplings of the speakers for the intervals; 0: no intervals
seed=1             # seed of these and of the choice of utterances
batch_frames=4000  # frames in a batch; only utterances of equal length share one
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "untrained.sh: needs <data-dir> <model-dir> <out-dir> (--help says more)" >&2; exit 2; }
data=${1%/} model=${2%/} out=${3%/}
step --in "$model/model.safetensors" --in "${trials:-$data/trials}" --speech "$data" \
  ${calibration_data:+--speech "$calibration_data"} --out "$out/untrained.tsv" --neutral device

resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
options=(--bits "$bits" --methods "$methods" --codebooks "$codebooks" --input "$input" --max-utts "$max_utts"
  --bootstrap "$bootstrap" --seed "$seed" --batch-frames "$batch_frames" --num-threads "$num_threads"
  --device "$device" --calibration-utts "$calibration_utts")
if [[ -n $calibration_data ]]; then options+=(--calibration-data "$calibration_data"); fi

$cmd "${resources[@]}" "$out/log/untrained.log" python3 -m svq.bin.untrained --model "$model" --data "$data" \
  --trials "${trials:-$data/trials}" --out "$out" "${options[@]}"
