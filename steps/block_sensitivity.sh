#!/usr/bin/env bash
# Measures what quantizing each block of a float model costs, one block at a time and without training: EER, minDCF and
# drift of the embeddings on a development list. Writes <out-dir>/blocks.{tsv,md,svg}; steps/select.sh goes by them.
#
# Usage: steps/block_sensitivity.sh [options] <config.yaml> <data-dir> <model-dir> <out-dir>
#   e.g. steps/block_sensitivity.sh conf/finetune.yaml:uniform4 data/dev exp/teacher exp/teacher/blocks_uniform4
#
# `quant` of the config says how blocks are quantized. A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py         # dispatcher
num_threads=1      # CPU threads
mem=4G             # memory the dispatcher reserves
device=cpu         # cpu or cuda (one GPU)
trials=            # trial list; empty: <data-dir>/trials
bits=              # bits in place of the config's
ptq_data=          # data directory to correct biases on, where the config's `ptq` asks for it
level=block        # block, or layer for every convolution and linear layer by itself
input=auto         # auto, feats (feats.scp) or wav (wav.scp)
max_utts=0         # so many utterances of the list, spread over its speakers; 0: all
max_seconds=0.0    # read so much of each utterance; 0: all of it
center=true        # take the mean embedding of the list off before scoring
bootstrap=200      # resamplings of the speakers for the intervals; 0: no intervals
seed=0             # seed of these and of the choice of utterances
batch_frames=4000  # frames in a batch; only utterances of equal length share one
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 4)) || {
  echo "block_sensitivity.sh: needs <config.yaml> <data-dir> <model-dir> <out-dir> (--help says more)" >&2
  exit 2
}
config=$1 data=${2%/} model=${3%/} out=${4%/}
step --config "$config" --in "$model/model.safetensors" --in "${trials:-$data/trials}" --speech "$data" \
  ${ptq_data:+--speech "$ptq_data"} --out "$out/blocks.tsv" --neutral device

resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
options=(--level "$level" --input "$input" --max-utts "$max_utts" --max-seconds "$max_seconds" --center "$center"
  --bootstrap "$bootstrap" --seed "$seed" --batch-frames "$batch_frames" --num-threads "$num_threads"
  --device "$device")
if [[ -n $ptq_data ]]; then options+=(--ptq-data "$ptq_data"); fi
if [[ -n $bits ]]; then options+=(--set "quant.bits=$bits"); fi

$cmd "${resources[@]}" "$out/log/block_sensitivity.log" python3 -m svq.bin.block_sensitivity --config "$config" \
  --model "$model" --data "$data" --trials "${trials:-$data/trials}" --out "$out" "${options[@]}"
