#!/usr/bin/env bash
# Scores trial lists: <scores>/<backend>_none.score, and with --norm the normalised scores beside
# it (what steps/score_norm.sh does in a step of its own).
#
# Usage: steps/score.sh [options] <trials> <embeddings> <scores>
#        steps/score.sh --lists "<list> ..." [options] <data> <embeddings> <scores>
#   e.g. steps/score.sh --cohort exp/teacher/embeddings/train data/test/trials \
#          exp/teacher/embeddings/test exp/teacher/scores/test
#        steps/score.sh --lists "dev/trials test/trials" --backends "cosine plda" --plda exp/teacher/plda.safetensors \
#          --cohort exp/teacher/embeddings/train data exp/teacher/embeddings exp/teacher/scores
# With --lists one process scores them all: <data>/dev/trials with <embeddings>/dev into <scores>/dev, <data>/test/trials_x
# with <embeddings>/test into <scores>/test_x, and so on; models of several utterances are <data>/<set>/enroll.spk2utt.
set -euo pipefail
cmd=run.py           # dispatcher
lists=               # trial lists under <data>; empty: one list
backends=cosine      # back end: cosine or plda; with --lists also both
plda=                # PLDA model, for back end plda
cohort=              # embeddings with mean.vec, subtracted before cosine (steps/speaker_means.sh)
enroll_spk2utt=      # models of several enrolment utterances of the one list
plda_enroll=average  # such models under PLDA: average (as one utterance) or by-the-book
norm=none            # of the one list: none, snorm or asnorm
top_n=300            # cohort speakers that AS-norm keeps for each embedding
threads=2            # at most this many processors
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "score.sh: needs <trials> <embeddings> <scores> (--help says more)" >&2; exit 2; }
trials=${1%/} embeddings=${2%/} scores=${3%/}

. "$SVQ_ROOT/steps/lists.sh"
if [[ -n $lists ]]; then
  find_lists none
else
  find_lists "$norm"                            # a norm comes with the plain scores that it is made of
fi
step --neutral lists --neutral backends "${parts[@]}"

options=()
if [[ -n $plda ]]; then options+=(--plda "$plda"); fi
if [[ -n $cohort ]]; then options+=(--cohort "$cohort"); fi
if [[ -n $enroll_spk2utt ]]; then options+=(--enroll-spk2utt "$enroll_spk2utt"); fi
log=$scores/log/score_$backends.log
if [[ -n $lists ]]; then
  todo="${pieces[*]}" log=$scores/log/score.log
  options+=(--lists "${todo// /,}")
else
  options+=(--backend "$backends" --norm "$norm")
fi
$cmd --num-threads "$threads" "$log" python3 -m svq.bin.score --plda-enroll "$plda_enroll" --top-n "$top_n" --threads "$threads" \
  "${options[@]}" "$trials" "$embeddings" "$scores"
