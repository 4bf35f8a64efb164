#!/usr/bin/env bash
# Measures what quantizing each block of a float model costs, one block at a time and without training: EER, minDCF and
# drift of the embeddings on a development list. Writes <out-dir>/blocks.{tsv,md,svg}, by which steps/select.sh chooses.
#
# Usage: steps/block_sensitivity.sh [options] <config.yaml> <data-dir> <model-dir> <out-dir>
#   e.g. steps/block_sensitivity.sh conf/finetune.yaml:uniform4 data/dev exp/teacher exp/teacher/blocks_uniform4
#
# `quant` in the config says how blocks are quantized. A run that was killed goes on where it was.
set -euo pipefail
cmd=run.py  # dispatcher
mem=4G      # memory the dispatcher reserves
_forward_to=("svq.bin.block_sensitivity but config model data out set")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 4)) || {
  echo "block_sensitivity.sh: needs <config.yaml> <data-dir> <model-dir> <out-dir> (--help says more)" >&2
  exit 2
}
config=$1 data=${2%/} model=${3%/} out=${4%/}
step --reads "$input" --config "$config" --in "$model/model.safetensors" --in "${trials:-$data/trials}" --speech "$data" \
  ${ptq_data:+--speech "$ptq_data"} --out "$out/blocks.tsv" --also "$out" --neutral device

fresh "$out/embeddings"
resources=(--mem "$mem" --num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi

$cmd "${resources[@]}" "$out/log/block_sensitivity.log" python3 -m svq.bin.block_sensitivity \
  "${to_block_sensitivity[@]}" --config "$config" --model "$model" --data "$data" --out "$out"
