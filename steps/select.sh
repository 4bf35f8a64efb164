#!/usr/bin/env bash
# Chooses which blocks of a float model to quantize and which to leave in float: by what steps/block_sensitivity.sh
# measured, or as a paper recommends. Writes <bits.tsv>, which quantization and training take as --bits.
#
# Usage: steps/select.sh [options] <out-dir-of-block_sensitivity-or-model-dir> <bits.tsv>
#   e.g. steps/select.sh --max-eer-loss 0.1 exp/ecapa/blocks_uniform8 exp/ecapa_selected/bits.tsv
#        steps/select.sh --preset ecapa-selective exp/ecapa exp/ecapa_selective/bits.tsv
#
# Give a goal: one of --max-eer-loss, --target-mb, --bytes and --preset, or a --config whose `select` part has goal and
# search. A greedy search writes its steps to steps.tsv beside <bits.tsv>.
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.select but from model out steps")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "select.sh: needs <dir> <bits.tsv> (--help says more)" >&2; exit 2; }
from=${1%/} out=$2
dir=$(dirname -- "$out")
given=model.safetensors                           # where <dir> is a model folder
if [[ -e $from/measured.yaml || ${from##*/} == blocks_* ]]; then given=blocks.tsv; fi
step ${config:+--config "$config"} --in "$from/$given" --out "$out" --also "$dir/steps.tsv"

if [[ -f $from/measured.yaml ]]; then
  options=(--from "$from" --steps "$dir/steps.tsv")
else
  options=(--model "$from")
fi

rm -f -- "$dir/steps.tsv"  # of another search
$cmd --num-threads "$num_threads" "$dir/log/select.log" python3 -m svq.bin.select "${to_select[@]}" \
  "${options[@]}" --out "$out"
