#!/usr/bin/env bash
# Normalises scores that steps/score.sh made: reads <scores>/<backend>_none.score, writes <scores>/<backend>_<norm>.score.
# The options of the back end must be those of the scoring.
#
# Usage: steps/score_norm.sh [options] --cohort <embeddings> <trials> <embeddings> <scores>
#        steps/score_norm.sh --lists "<list> ..." [options] --cohort <embeddings> <data> <embeddings> <scores>
#   e.g. steps/score_norm.sh --norms asnorm --cohort exp/teacher/embeddings/train data/test/trials \
#          exp/teacher/embeddings/test exp/teacher/scores/test
# With --lists one process normalises the scores of all lists that steps/score.sh --lists scored.
set -euo pipefail
cmd=run.py       # dispatcher
lists=           # trial lists under <data>; empty: one list
backends=cosine  # back end: cosine or plda; with --lists also both
norms=asnorm     # snorm or asnorm; with --lists also both (none is ignored)
threads=2        # threads that score, at most
_forward_to=("svq.bin.score_norm but backend lists norm threads")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "score_norm.sh: needs <trials> <embeddings> <scores> (--help says more)" >&2; exit 2; }
trials=${1%/} embeddings=${2%/} scores=${3%/}

. "$SVQ_ROOT/steps/lists.sh"
read -ra wanted <<< " $norms "
wanted=("${wanted[@]/#none/}")
find_lists "${wanted[*]}"
step --neutral lists --neutral backends --neutral norms "${parts[@]}"

log=$scores/log/score_norm_${backends}_$norms.log options=(--backend "$backends" --norm "$norms")
if [[ -n $lists ]]; then
  todo="${pieces[*]}" log=$scores/log/score_norm.log
  options=(--lists "${todo// /,}")
fi
$cmd --num-threads "$threads" "$log" python3 -m svq.bin.score_norm "${to_score_norm[@]}" \
  --threads "$threads" "${options[@]}" "$trials" "$embeddings" "$scores"
