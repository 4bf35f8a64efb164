#!/usr/bin/env bash
# Analyses what quantization did to scores: errors, drift and decision flips of systems against a float one, with 95 %
# intervals over speakers. Writes <out>/index.html, scores.{tsv,md}, figures, and maps of low-bit to float scores.
#
# Usage: steps/score_analysis.sh [options] <trials-lists> <out> <float-system> <system[:bits]> [<system[:bits]> ...]
#   e.g. steps/score_analysis.sh "data/dev/trials data/test/trials" exp/score_analysis \
#          small_float small_kmqat4 small_kmqat3 small_kmqat2 small_kmqat1
# The first trial list is the development list: whatever is fitted is fitted on it. Systems are folders under <exp> with
# scores of steps/score.sh; bits that are not given come from summary.json.
set -euo pipefail
cmd=run.py  # dispatcher
data=       # folder that the paths of the trial lists start from; empty: the current one
_forward_to=("svq.bin.score_analysis but trials out")
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
step "${ins[@]}" --out "$out/index.html" --out "$out/scores.tsv" --out "$out/scores.md" --also "$out" --also "$out/maps"

$cmd "$out/log/score_analysis.log" python3 -m svq.bin.score_analysis "${to_score_analysis[@]}" --out "$out" \
  --trials "${lists[@]}" -- "$@"
echo "score_analysis.sh: $out/scores.md, index.html"
