#!/usr/bin/env bash
# Normalises the scores of steps/score.sh: <scores>/<backend>_none.score to
# <scores>/<backend>_<norm>.score. The back end's options must be those of the scoring.
#
# Usage: steps/score_norm.sh [options] --cohort <embeddings> <trials> <embeddings> <scores>
#        steps/score_norm.sh --lists "<list> ..." [options] --cohort <embeddings> <data> <embeddings> <scores>
#   e.g. steps/score_norm.sh --norms asnorm --cohort exp/teacher/embeddings/train data/test/trials \
#          exp/teacher/embeddings/test exp/teacher/scores/test
# With --lists one process normalises the scores of them all, as steps/score.sh has made them.
set -euo pipefail
cmd=run.py       # dispatcher
lists=           # trial lists under <data>; empty: one list
backends=cosine  # back end: cosine or plda; with --lists also both
norms=asnorm     # snorm or asnorm; with --lists also both (and none, which is passed over)
threads=2        # at most this many processors
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
