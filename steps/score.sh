#!/usr/bin/env bash
# Scores a trial list: <scores>/<backend>_none.score, and with --norm the normalised scores beside
# it (what steps/score_norm.sh does in a step of its own).
#
# Usage: steps/score.sh [options] <trials> <embeddings> <scores>
#   e.g. steps/score.sh --cohort exp/teacher/embeddings/train data/test/trials \
#          exp/teacher/embeddings/test exp/teacher/scores/test
set -euo pipefail
cmd=run.py           # dispatcher
backend=cosine       # cosine or plda
plda=                # PLDA model, for --backend plda
cohort=              # embeddings with mean.vec, subtracted before cosine (steps/speaker_means.sh)
enroll_spk2utt=      # models of several enrolment utterances
plda_enroll=average  # such models under PLDA: average (as one utterance) or by-the-book
norm=none            # none, snorm or asnorm
top_n=300            # cohort speakers that AS-norm keeps for each embedding
threads=2            # at most this many processors
. utils/parse_options.sh
. ./path.sh

(($# == 3)) || { echo "score.sh: needs <trials> <embeddings> <scores> (--help says more)" >&2; exit 2; }
trials=$1 embeddings=$2 scores=$3

options=()
if [[ -n $plda ]]; then options+=(--plda "$plda"); fi
if [[ -n $cohort ]]; then options+=(--cohort "$cohort"); fi
if [[ -n $enroll_spk2utt ]]; then options+=(--enroll-spk2utt "$enroll_spk2utt"); fi
$cmd --num-threads "$threads" "$scores/log/score_$backend.log" python3 -m svq.bin.score --backend "$backend" \
  --plda-enroll "$plda_enroll" --norm "$norm" --top-n "$top_n" --threads "$threads" \
  ${options[@]+"${options[@]}"} "$trials" "$embeddings" "$scores"
