#!/usr/bin/env bash
# Normalises the scores of steps/score.sh: <scores>/<backend>_none.score to
# <scores>/<backend>_<norm>.score. The back end's options must be those of the scoring.
#
# Usage: steps/score_norm.sh [options] --cohort <embeddings> <trials> <embeddings> <scores>
#   e.g. steps/score_norm.sh --norm asnorm --cohort exp/teacher/embeddings/train data/test/trials \
#          exp/teacher/embeddings/test exp/teacher/scores/test
set -euo pipefail
cmd=run.py           # dispatcher
backend=cosine       # cosine or plda
norm=asnorm          # snorm or asnorm
top_n=300            # cohort speakers that AS-norm keeps for each embedding
cohort=              # embeddings with spk_embedding.scp and mean.vec (steps/speaker_means.sh)
plda=                # PLDA model, for --backend plda
enroll_spk2utt=      # models of several enrolment utterances
plda_enroll=average  # such models under PLDA: average (as one utterance) or by-the-book
threads=2            # at most this many processors
. utils/parse_options.sh
. ./path.sh

(($# == 3)) || { echo "score_norm.sh: needs <trials> <embeddings> <scores> (--help says more)" >&2; exit 2; }
trials=$1 embeddings=$2 scores=$3

options=()
if [[ -n $plda ]]; then options+=(--plda "$plda"); fi
if [[ -n $cohort ]]; then options+=(--cohort "$cohort"); fi
if [[ -n $enroll_spk2utt ]]; then options+=(--enroll-spk2utt "$enroll_spk2utt"); fi
$cmd --num-threads "$threads" "$scores/log/score_norm_${backend}_$norm.log" python3 -m svq.bin.score_norm \
  --backend "$backend" --plda-enroll "$plda_enroll" --norm "$norm" --top-n "$top_n" --threads "$threads" \
  ${options[@]+"${options[@]}"} "$trials" "$embeddings" "$scores"
