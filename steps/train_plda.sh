#!/usr/bin/env bash
# Trains a two-covariance PLDA with LDA and length normalisation on the embeddings of the speakers of a data directory.
# Where data are few, shrunk covariances take the place of EM: with fewer than ten speakers, or fewer than ten utterances
# beyond the first of each speaker, for each dimension of the embedding.
#
# Usage: steps/train_plda.sh [options] <data-dir> <embeddings> <plda-model>
#   e.g. steps/train_plda.sh data/train exp/teacher/embeddings/train exp/teacher/plda.safetensors
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.train_plda")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"
. "$SVQ_ROOT/steps/lists.sh"

(($# == 3)) || { echo "train_plda.sh: needs <data-dir> <embeddings> <plda-model> (--help says more)" >&2; exit 2; }
data=${1%/} embeddings=${2%/} model=$3
vectors=(--in "$embeddings/embedding.scp" --maybe "$embeddings/embedding.ark")
or_xvectors "$embeddings" embedding
step --in "$data/spk2utt" "${vectors[@]}" --out "$model"

$cmd "$(dirname "$model")/log/train_plda.log" python3 -m svq.bin.train_plda "${to_train_plda[@]}" \
  "$data/spk2utt" "$embeddings" "$model"
