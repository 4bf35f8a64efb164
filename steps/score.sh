#!/usr/bin/env bash
# Scores trial lists: writes <scores>/<backend>_none.score and, with --norm, the normalised scores beside it
# (steps/score_norm.sh does the same as a step of its own).
#
# Usage: steps/score.sh [options] <trials> <embeddings> <scores>
#        steps/score.sh --lists "<list> ..." [options] <data> <embeddings> <scores>
#   e.g. steps/score.sh --cohort exp/teacher/embeddings/train data/test/trials \
#          exp/teacher/embeddings/test exp/teacher/scores/test
#        steps/score.sh --lists "dev/trials test/trials" --backends "cosine plda" --plda exp/teacher/plda.safetensors \
#          --cohort exp/teacher/embeddings/train data exp/teacher/embeddings exp/teacher/scores
# With --lists one process scores all lists: <data>/dev/trials with <embeddings>/dev into <scores>/dev, <data>/test/trials_x
# with <embeddings>/test into <scores>/test_x, and so on. <data>/<set>/enroll.spk2utt has models of several utterances.
set -euo pipefail
cmd=run.py       # dispatcher
lists=           # trial lists under <data>; empty: one list
backends=cosine  # back end: cosine or plda; with --lists also both
threads=2        # threads that score, at most
_forward_to=("svq.bin.score but backend lists threads")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "score.sh: needs <trials> <embeddings> <scores> (--help says more)" >&2; exit 2; }
[[ -z $lists || $norm == none ]] || {
  echo "score.sh: --norm goes with one list; with --lists, steps/score_norm.sh normalises" >&2
  exit 2
}
trials=${1%/} embeddings=${2%/} scores=${3%/}

. "$SVQ_ROOT/steps/lists.sh"
if [[ -n $lists ]]; then
  find_lists none
else
  find_lists "$norm"                            # a norm brings the plain scores that it is made from
fi
step --neutral lists --neutral backends "${parts[@]}"

log=$scores/log/score_$backends.log options=(--backend "$backends")
if [[ -n $lists ]]; then
  todo="${pieces[*]}" log=$scores/log/score.log
  options=(--lists "${todo// /,}")
fi
$cmd --num-threads "$threads" "$log" python3 -m svq.bin.score "${to_score[@]}" --threads "$threads" \
  "${options[@]}" "$trials" "$embeddings" "$scores"
