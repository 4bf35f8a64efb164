#!/usr/bin/env bash
# What quantization did to scores: errors, drift and decision flips of systems set against a float one, with 95 %
# intervals over speakers: <out>/index.html, scores.{tsv,md}, figures, and maps of low-bit to float scores.
#
# Usage: steps/score_analysis.sh [options] <trials-lists> <out> <float-system> <system[:bits]> [<system[:bits]> ...]
#   e.g. steps/score_analysis.sh "data/dev/trials data/test/trials" exp/score_analysis \
#          small_float small_kmqat4 small_kmqat3 small_kmqat2 small_kmqat1
# The first trial list is the development list: all that is fitted is fitted there. Systems are folders under <exp>,
# their scores those of steps/score.sh; bits are those of summary.json where they are not given.
set -euo pipefail
cmd=run.py            # dispatcher
exp=exp               # folder of the systems
data=                 # folder that the trial lists lie under; empty: their paths are whole
scores=cosine_none    # BACKEND_NORM of the score files
scale=affine          # map of low-bit scores behind the break-downs and the knee: raw, affine, isotonic, logistic
sweep=                # systems that the knee over bits is looked for in; empty: all, if their bits differ
operating_point=eer   # threshold: eer (the float system's) or bayes (p_target and the costs)
p_target=0.01         # of minDCF, actDCF and the Bayes threshold
c_miss=1.0            # cost of a miss in these
c_fa=1.0              # cost of a false alarm in these
prior=0.5             # weight of the targets in calibrations
duration=shorter      # the break-down by duration goes by the shorter side of a trial, or by its test side
duration_edges=       # seconds between its groups, such as "2 4"; empty: quartiles of each list
bootstrap=200         # resamplings of the speakers; 0: no intervals
seed=0                # seed of these
title="Scores of quantized systems"  # title of the page
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# >= 4)) || {
  echo "score_analysis.sh: needs <trials-lists> <out> <float-system> <system>... (--help says more)" >&2
  exit 2
}
. "$SVQ_ROOT/steps/lists.sh"
given=$1
read -ra lists <<< "$1"
if [[ -n $data ]]; then lists=("${lists[@]/#/$data/}"); fi
out=${2%/}
shift 2
ins=()
for list in "${lists[@]}"; do
  ins+=(--in "$list")
  for file in utt2dur spk2gender utt2domain enroll.spk2utt; do ins+=(--maybe "${list%/*}/$file"); done
done
for system in "$@"; do
  ins+=(--in "$exp/${system%%:*}/summary.json")
  for list in $given; do
    name_list "$list"
    ins+=(--in "$exp/${system%%:*}/scores/$name/$scores.score")
  done
done
step "${ins[@]}" --out "$out/index.html" --out "$out/scores.tsv" --out "$out/scores.md"

options=(--out "$out" --exp "$exp" --scores "$scores" --scale "$scale" --operating-point "$operating_point"
  --p-target "$p_target" --c-miss "$c_miss" --c-fa "$c_fa" --prior "$prior" --duration "$duration"
  --bootstrap "$bootstrap" --seed "$seed" --title "$title" --trials "${lists[@]}")
if [[ -n $sweep ]]; then read -ra names <<< "$sweep" && options+=(--sweep "${names[@]}"); fi
if [[ -n $duration_edges ]]; then read -ra edges <<< "$duration_edges" && options+=(--duration-edges "${edges[@]}"); fi

$cmd "$out/log/score_analysis.log" python3 -m svq.bin.score_analysis "${options[@]}" -- "$@"
echo "score_analysis.sh: $out/scores.md, index.html"
