#!/usr/bin/env bash
# The final table of a search: systems side by side, with what was counted, assumed and measured in separate
# columns, and the search's figures: <out>/index.html, tradeoff.md, tradeoff.tsv, *.svg.
#
# Usage: steps/tradeoff.sh [options] <data-dir> <out> <name>=<model> [<name>=<model> ...]
#   e.g. steps/tradeoff.sh --study exp/search/study.db data/dev exp/search/report \
#          float=exp/small ptq=exp/small_kmqat4-ptq qat=exp/search/best int8=exp/search/int8.xml
# The first system is the one that the others are compared with.
set -euo pipefail
cmd=run.py             # dispatcher
study=                 # study.db of a search, for its figures; empty: none
trials=                # trial list; empty: <data-dir>/trials
probe_seconds=3.0      # length of enrolment and probes in identification
probes=5               # probes of each speaker
seconds=3.0            # length that operations and latency are of
times=20               # calls that latency is the median of
replicates=1000        # resamplings of the speakers, for intervals
seed=0                 # of segments and resampling
num_threads=1          # CPU threads
title="Search and trade-off"  # title of the page
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
  --out "$out/index.html" --out "$out/tradeoff.tsv"

options=(--data "$data" --out "$out" --probe-seconds "$probe_seconds" --probes "$probes" --seconds "$seconds"
  --times "$times" --replicates "$replicates" --seed "$seed" --num-threads "$num_threads" --title "$title")
if [[ -n $study ]]; then options+=(--study "$study"); fi
if [[ -n $trials ]]; then options+=(--trials "$trials"); fi

$cmd --num-threads "$num_threads" "$out/log/tradeoff.log" python3 -m svq.bin.tradeoff "${options[@]}" "$@"
cat "$out/tradeoff.md"
