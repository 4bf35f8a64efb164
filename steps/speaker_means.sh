#!/usr/bin/env bash
# Averages embeddings by speaker: writes <embeddings>/spk_embedding.{ark,scp}, the cohort of score normalisation, and
# mean.vec, the mean that is subtracted before cosine scoring.
#
# Usage: steps/speaker_means.sh [options] <data-dir> <embeddings>
#   e.g. steps/speaker_means.sh data/train exp/teacher/embeddings/train
set -euo pipefail
cmd=run.py  # dispatcher
_forward_to=("svq.bin.speaker_means")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"
. "$SVQ_ROOT/steps/lists.sh"

(($# == 2)) || { echo "speaker_means.sh: needs <data-dir> <embeddings> (--help says more)" >&2; exit 2; }
data=${1%/} embeddings=${2%/}
vectors=(--in "$embeddings/embedding.scp" --maybe "$embeddings/embedding.ark")
or_xvectors "$embeddings" embedding
step --in "$data/spk2utt" "${vectors[@]}" \
  --out "$embeddings/spk_embedding.scp" --out "$embeddings/spk_embedding.ark" --out "$embeddings/mean.vec"

$cmd "$embeddings/log/speaker_means.log" python3 -m svq.bin.speaker_means "${to_speaker_means[@]}" \
  "$data/spk2utt" "$embeddings"
