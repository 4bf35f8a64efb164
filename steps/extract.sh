#!/usr/bin/env bash
# Computes the speaker embeddings of data directories: <out-dir>/embedding.{ark,scp}, one vector for each utterance,
# sorted by utterance. The result does not depend on --nj.
#
# Usage: steps/extract.sh [options] <data-dir> <model-dir-or-file> <out-dir>
#        steps/extract.sh --sets "<set> ..." [options] <data> <model-dir-or-file> <embeddings>
#   e.g. steps/extract.sh --nj 8 --cmd "$extract_cmd" data/test exp/teacher exp/teacher/embeddings/test
#        steps/extract.sh --sets "dev test" data exp/teacher exp/teacher/embeddings
# With --sets each job starts once and does its share of all sets: <data>/dev into <embeddings>/dev, and so on.
# Features come from feats.scp where the data directory has one; else they are computed from wav.scp.
# Files that steps/export.sh made are models too: .onnx runs in ONNX Runtime, .xml in OpenVINO.
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py  # dispatcher
nj=2        # number of jobs
sets=       # data directories under <data>, such as "dev test"; empty: <data-dir> alone
_forward_to=("svq.bin.extract but job num-jobs sets")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 3)) || { echo "extract.sh: needs <data-dir> <model-dir-or-file> <out-dir> (--help says more)" >&2; exit 2; }
((nj >= 1)) || { echo "extract.sh: --nj must be at least 1" >&2; exit 2; }
data=${1%/} model=${2%/} out=${3%/}
file=$([[ $model == *.svq || $model == *.xml || $model == *.onnx ]] && echo "$model" || echo "$model/model.safetensors")
parts=(--in "$file" --reads "$input" --neutral device --neutral sets)
read -ra names <<< "$sets"
((${#names[@]})) || names=("")                   # one data directory
for set in "${names[@]}"; do
  if [[ -n $set ]]; then parts+=(--piece "$set"); fi
  parts+=(--speech "$data${set:+/$set}" --out "$out${set:+/$set}/embedding.scp" --out "$out${set:+/$set}/embedding.ark")
done
step "${parts[@]}"
((${#pieces[@]})) || pieces=("")

resources=(--num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
mkdir -p "$out/log"
for set in "${pieces[@]}"; do
  into=$out${set:+/$set}
  mkdir -p "$into"
  rm -f "$into/embedding.scp" "$into"/embedding.*.{ark,scp}
done
log=$out/log/extract.JOB.log
todo="${pieces[*]}"
into=$out
if [[ -z $todo ]]; then into=$out/embedding.JOB; fi

$cmd "${resources[@]}" JOB=1:"$nj" "$log" python3 -m svq.bin.extract "${to_extract[@]}" --job JOB \
  --num-jobs "$nj" --sets "${todo// /,}" "$data" "$model" "$into"

for set in "${pieces[@]}"; do
  into=$out${set:+/$set}
  python3 -m svq.bin.merge_jobs --expected "$data${set:+/$set}/utt2spk" --num-jobs "$nj" --log "$log" \
    --ark "$into/embedding.ark" "$into/embedding.JOB.scp" "$into/embedding.scp"
  rm -f "$into"/embedding.*.{ark,scp}
  echo "extract.sh: $(wc -l < "$into/embedding.scp") embeddings in $into/embedding.scp"
done
