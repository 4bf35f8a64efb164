#!/usr/bin/env bash
# Writes the final table of a search, with systems side by side, and the figures of the search: <out>/index.html,
# tradeoff.md, tradeoff.tsv, *.svg. Numbers that were counted, assumed and measured stand in separate columns.
#
# Usage: steps/tradeoff.sh [options] <data-dir> <out> <name>=<model> [<name>=<model> ...]
#   e.g. steps/tradeoff.sh --study exp/search/study.db data/dev exp/search/report \
#          float=exp/small ptq=exp/small_kmqat4-ptq qat=exp/search/best int8=exp/search/int8.xml
# The others are compared with the first system.
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.tradeoff but data out")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# >= 3)) || { echo "tradeoff.sh: needs <data-dir> <out> <name>=<model>... (--help says more)" >&2; exit 2; }
data=${1%/} out=${2%/}
shift 2
ins=()
for word in "$@"; do
  model=${word#*=}
  ins+=(--in "$([[ $model == *.svq || $model == *.xml || $model == *.onnx ]] && echo "$model" || echo "$model/model.safetensors")")
done
step "${ins[@]}" ${study:+--in "$(dirname -- "$study")/trials.tsv"} --in "${trials:-$data/trials}" --speech "$data" \
  --out "$out/index.html" --out "$out/tradeoff.tsv" --also "$out"

$cmd --num-threads "$num_threads" "$out/log/tradeoff.log" python3 -m svq.bin.tradeoff "${to_tradeoff[@]}" \
  --data "$data" --out "$out" "$@"
cat "$out/tradeoff.md"
