#!/usr/bin/env bash
# Calibrates scores to log-likelihood ratios. For each <scores>/<dev>/NAME.score, fits slope and offset on the
# development list, writes them to <scores>/<dev>/NAME.calibration.json, and writes NAME.llr beside NAME.score in all
# lists under <scores>.
# With --mean, the calibration of cosine scores names the mean embedding that it belongs to; svq.bin.verify needs that.
#
# Plain cosine scores are always calibrated: their calibration goes into the packed file.
#
# Usage: steps/calibrate.sh [options] <dev-trials> <scores>
#   e.g. steps/calibrate.sh data/dev/trials exp/teacher/scores
set -euo pipefail
cmd=run.py  # dispatcher
dev=dev     # folder of the development list under <scores>
lists=      # trial lists whose scores are calibrated, such as "dev/trials test/trials"; empty: all under <scores>
backends=   # back ends of the scores; empty: all that the development list has
norms=      # score normalizations of these back ends
_forward_to=("svq.bin.calibrate but names")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "calibrate.sh: needs <dev-trials> <scores> (--help says more)" >&2; exit 2; }
trials=$1 scores=${2%/}

# The scores to calibrate: BACKEND_NORM of every back end and norm, or all that are there.
names=()
for backend in $backends; do
  if [[ $backend == cosine && " $norms " != *" none "* ]]; then names+=(cosine_none); fi
  for norm in $norms; do names+=("${backend}_$norm"); done
done
if ((${#names[@]} == 0)); then
  for file in "$scores/$dev"/*.score; do
    [[ -f $file ]] || { echo "calibrate.sh: no scores in $scores/$dev; steps/score.sh makes them" >&2; exit 1; }
    name=${file##*/}
    names+=("${name%.score}")
  done
fi
. "$SVQ_ROOT/steps/lists.sh"
folders=()
for list in $lists; do
  name_list "$list"
  folders+=("$scores/$name")
done
if [[ -z $lists ]]; then
  for file in "$scores"/*/"${names[0]}.score"; do
    if [[ -f $file ]]; then folders+=("${file%/*}"); fi
  done
fi
parts=(--in "$trials")
if [[ -n $mean && $mean != none ]]; then parts+=(--in "$mean"); fi
for name in "${names[@]}"; do
  for folder in "${folders[@]}"; do
    parts+=(--in "$folder/$name.score" --out "$folder/$name.llr")
  done
  parts+=(--out "$scores/$dev/$name.calibration.json")
done
step "${parts[@]}"

$cmd "$scores/log/calibrate.log" python3 -m svq.bin.calibrate "${to_calibrate[@]}" --names "${names[@]}" -- \
  "$trials" "$scores/$dev/NAME.score" "$scores/$dev/NAME.calibration.json" "${folders[@]/%//NAME.score}"
