#!/usr/bin/env bash
# Caches a teacher's embeddings at several levels, for students to learn from (steps/train.sh --targets). Writes
# <out-dir>/<level>.scp with its archives in <out-dir>/parts, its mean, and <out-dir>/<level>.json.
#
# Usage: steps/teacher_embeddings.sh [options] <data-dir> <model-dir-or-file> <out-dir>
#   e.g. steps/teacher_embeddings.sh --levels "utterance narrowBN" data/train exp/xvector exp/xvector/levels/train
#
# Prints the disk use first. A level that is there already, from the same teacher and data, stays; a run that was killed
# goes on with the unfinished jobs.
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py        # dispatcher
nj=2              # number of jobs
levels=utterance  # levels to cache: utterance, narrowBN, wideBN, sp_aggr, lde_aggr, or layers by name such as frame2+frame4:stats
_forward_to=("svq.bin.teacher_embeddings but model data out level plan finish job num-jobs log")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || {
  echo "teacher_embeddings.sh: needs <data-dir> <model-dir-or-file> <out-dir> (--help says more)" >&2
  exit 2
}
((nj >= 1)) || { echo "teacher_embeddings.sh: --nj must be at least 1" >&2; exit 2; }
data=${1%/} model=${2%/} out=${3%/}
file=$([[ $model == *.svq ]] && echo "$model" || echo "$model/model.safetensors")
outs=(--stamp "$out/.done.levels")
for level in $levels; do outs+=(--out "$out/${level//:/-}.json" --out "$out/${level//:/-}.scp" --also "$out/${level//:/-}.mean.vec"); done
step --dear --in "$file" --speech "$data" --reads "$input" ${aggregation:+--in "$aggregation/aggregation.safetensors"} \
  "${outs[@]}" --neutral device

log=$out/log/levels.JOB.log
resources=(--num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
read -ra names <<< "$levels"
what=("${to_teacher_embeddings[@]}" --model "$model" --data "$data" --out "$out" --num-jobs "$nj" --level "${names[@]}")

for level in $levels; do  # remove it if its archive is no longer right, or its mean is gone
  made=$out/${level//:/-}
  if [[ -n ${SVQ_ANEW-} || ! -e $made.mean.vec ]]; then rm -f -- "$made".{json,scp}; fi
done
python3 -m svq.bin.teacher_embeddings --plan "${what[@]}" --device cpu  # on this machine, which may have no GPU
mkdir -p "$out/log"
$cmd "${resources[@]}" JOB=1:"$nj" "$log" python3 -m svq.bin.teacher_embeddings --job JOB "${what[@]}"
python3 -m svq.bin.teacher_embeddings --finish --log "$log" "${what[@]}" --device cpu
