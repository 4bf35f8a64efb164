#!/usr/bin/env bash
# Calibrates scores to log-likelihood ratios. For every <scores>/<dev>/NAME.score, fits slope and
# offset on the development list into <scores>/<dev>/NAME.calibration.json, and writes NAME.llr
# beside NAME.score in all lists under <scores>.
# With --mean a calibration of cosine scores says what it belongs to, and svq.bin.verify can use it.
#
# Usage: steps/calibrate.sh [options] <dev-trials> <scores>
#   e.g. steps/calibrate.sh data/dev/trials exp/teacher/scores
set -euo pipefail
cmd=run.py  # dispatcher
dev=dev     # name of the development list's folder under <scores>
prior=0.5   # weight of the target trials in the fit
mean=       # mean.vec of the cohort that was subtracted before cosine scores; none: nothing was; empty: not recorded
names=      # which scores, such as "cosine_none plda_asnorm"; empty: all that the development list has
. utils/parse_options.sh
. ./path.sh

(($# == 2)) || { echo "calibrate.sh: needs <dev-trials> <scores> (--help says more)" >&2; exit 2; }
trials=$1 scores=$2

if [[ -z $names ]]; then
  for file in "$scores/$dev"/*.score; do
    [[ -f $file ]] || { echo "calibrate.sh: no scores in $scores/$dev; steps/score.sh makes them" >&2; exit 1; }
    name=${file##*/}
    names+=" ${name%.score}"
  done
fi
options=()
if [[ -n $mean ]]; then options+=(--mean "$mean"); fi
for name in $names; do
  lists=()
  for file in "$scores"/*/"$name.score"; do
    if [[ -f $file ]]; then lists+=("$file"); fi
  done
  $cmd "$scores/log/calibrate_$name.log" python3 -m svq.bin.calibrate --prior "$prior" \
    ${options[@]+"${options[@]}"} "$trials" "$scores/$dev/$name.score" "$scores/$dev/$name.calibration.json" \
    ${lists[@]+"${lists[@]}"}
done
