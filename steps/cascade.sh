#!/usr/bin/env bash
# Builds a cascade of systems of rising precision: the cheapest settles most trials, unsure ones go on to the next.
# Chooses the delta of each rung on a development list, and evaluates the cascade on test lists by replaying the scores
# of the rungs. Writes <out-dir>/ladder.yaml and <rung>.map.json, and to <out-dir>/report cascade.{tsv,md}, index.html
# and figures. With --run true also runs the cascade (<out-dir>/run) and each rung alone (<out-dir>/run_alone/<rung>).
#
# Usage: steps/cascade.sh [options] <ladder.yaml> <dev-trials> <out-dir> <test-trials> ...
#   e.g. steps/cascade.sh --limits "eer_loss=0.05 escalation=0.2" exp/2-4-32.yaml data/dev/trials \
#          exp/cascade/2-4-32 data/test/trials
#
# A trial list lies in its data directory. `python3 -m svq.bin.cascade --help` explains the limits; svq/cascade/ladder.py
# says what the file of a ladder holds. svq.bin.verify --cascade takes <out-dir>/ladder.yaml.
set -euo pipefail
cmd=run.py              # dispatcher
limits="eer_loss=0.05"  # limits of the choice on the development list, each name=number
run=false               # true: also run the cascade, and each rung alone, one trial at a time, and measure seconds
run_trials=             # trial list for --run (utils/make_trials.sh --once true); empty: the first test list
_forward_to=("svq.bin.cascade choose but ladder trials out limit"
             "svq.bin.cascade run but ladder trials out only"
             "svq.bin.cascade evaluate but ladder trials out runs")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# >= 4)) || {
  echo "cascade.sh: needs <ladder.yaml> <dev-trials> <out-dir> <test-trials> ... (--help says more)" >&2
  exit 2
}
ladder=$1 dev=$2 out=${3%/}
shift 3
first=$1

. "$SVQ_ROOT/steps/lists.sh"
ins=(--in "$dev")
for list; do ins+=(--in "$list"); done
find_rungs "$ladder" "$dev" "$@"
step --in "$ladder" "${ins[@]}" "${parts[@]}" ${run_trials:+--in "$run_trials"} \
  --out "$out/ladder.yaml" --out "$out/report/cascade.tsv" --out "$out/report/index.html" --also "$out" --also "$out/report" \
  --neutral device

options=()
for limit in $limits; do options+=(--limit "$limit"); done

$cmd "$out/log/choose.log" python3 -m svq.bin.cascade choose "${to_choose[@]}" "${options[@]}" \
  --ladder "$ladder" --trials "$dev" --out "$out"
runs=() resources=(--num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
run_over() {                                      # <folder> <option>...
  $cmd "${resources[@]}" "$out/log/${1//\//_}.log" python3 -m svq.bin.cascade run "${to_run[@]}" \
    --ladder "$out/ladder.yaml" --trials "${run_trials:-$first}" --out "$out/$1" "${@:2}"
  runs+=("$out/$1")
}
if [[ $run == true ]]; then
  run_over run
  names=$(python3 -c 'import sys, svq.cascade.ladder as it; print(*it.load_ladder(sys.argv[1]).names, sep="\n")' \
    "$out/ladder.yaml")
  while IFS= read -r name; do run_over "run_alone/$name" --only "$name"; done <<< "$names"
fi
$cmd "$out/log/evaluate.log" python3 -m svq.bin.cascade evaluate "${to_evaluate[@]}" \
  --ladder "$out/ladder.yaml" --trials "$@" --out "$out/report" ${runs[@]+--runs "${runs[@]}"}
