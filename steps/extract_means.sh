#!/usr/bin/env bash
# Computes the mean embedding of each speaker, and of all utterances, of a data directory, and writes no embedding:
# <out-dir>/spk_embedding.{ark,scp}, the cohort of score normalisation, and mean.vec, the mean that is subtracted before
# cosine scoring. They have the bytes that steps/extract.sh and steps/speaker_means.sh give, whatever --nj.
#
# Usage: steps/extract_means.sh [options] <data-dir> <model-dir-or-file> <out-dir>
#   e.g. steps/extract_means.sh --nj 8 --cmd "$extract_cmd" data/train exp/teacher exp/teacher/embeddings/train
# A run that was killed goes on: its jobs have kept their sums. PLDA takes the embeddings themselves: steps/extract.sh.
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py  # dispatcher
nj=2        # number of jobs
_forward_to=("svq.bin.extract_means but job num-jobs finish log")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "extract_means.sh: needs <data-dir> <model-dir-or-file> <out-dir> (--help says more)" >&2; exit 2; }
((nj >= 1)) || { echo "extract_means.sh: --nj must be at least 1" >&2; exit 2; }
data=${1%/} model=${2%/} out=${3%/}
file=$([[ $model == *.svq || $model == *.xml || $model == *.onnx ]] && echo "$model" || echo "$model/model.safetensors")
step --in "$file" --speech "$data" --reads "$input" --neutral device \
  --out "$out/spk_embedding.scp" --out "$out/spk_embedding.ark" --out "$out/mean.vec"

resources=(--num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
if [[ -n ${SVQ_ANEW-} ]]; then rm -rf -- "$out/sums"; fi
mkdir -p "$out/log"
log=$out/log/extract_means.JOB.log
export SVQ_RESUMES=1  # a cluster may end a job at the time limit and start it again
$cmd "${resources[@]}" JOB=1:"$nj" "$log" python3 -m svq.bin.extract_means "${to_extract_means[@]}" --job JOB \
  --num-jobs "$nj" "$data" "$model" "$out"
if ((nj > 1)); then                             # one job has done it all
  python3 -m svq.bin.extract_means "${to_extract_means[@]}" --device cpu --finish --num-jobs "$nj" --log "$log" \
    "$data" "$model" "$out"
fi
