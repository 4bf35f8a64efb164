#!/usr/bin/env bash
# Speaker embeddings of a data directory: <out-dir>/embedding.{ark,scp}, one vector an utterance,
# sorted by utterance. The result does not depend on --nj.
#
# Usage: steps/extract.sh [options] <data-dir> <model-dir-or-file> <out-dir>
#   e.g. steps/extract.sh --nj 8 --cmd "$extract_cmd" data/test exp/teacher exp/teacher/embeddings/test
# The features are feats.scp where the data directory has one, else computed from wav.scp.
# Files of steps/export.sh are models too: .onnx runs in ONNX Runtime, .xml in OpenVINO.
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py         # dispatcher
nj=2               # number of jobs
num_threads=1      # CPU threads of a job
input=auto         # auto, feats (feats.scp) or wav (wav.scp)
max_seconds=0.0    # read so much of each utterance; 0: all of it
batch_frames=4000  # frames in a batch; only utterances of equal length share one
device=cpu         # cpu or cuda (one GPU a job)
backend=           # torch, onnxruntime or openvino; empty: what the model is for
. utils/parse_options.sh
. ./path.sh

(($# == 3)) || { echo "extract.sh: needs <data-dir> <model-dir-or-file> <out-dir> (--help says more)" >&2; exit 2; }
((nj >= 1)) || { echo "extract.sh: --nj must be at least 1" >&2; exit 2; }
data=${1%/} model=$2 out=${3%/}
[[ -f $data/utt2spk ]] || { echo "extract.sh: $data/utt2spk is missing" >&2; exit 1; }

log=$out/log/extract.JOB.log
resources=(--num-threads "$num_threads")
if [[ $device == cuda* ]]; then resources+=(--gpu 1); fi
mkdir -p "$out/log"
rm -f "$out/embedding.scp" "$out"/embedding.*.{ark,scp}

$cmd "${resources[@]}" JOB=1:"$nj" "$log" python3 -m svq.bin.extract --job JOB --num-jobs "$nj" \
  --num-threads "$num_threads" --input "$input" --max-seconds "$max_seconds" --batch-frames "$batch_frames" \
  --device "$device" ${backend:+--backend "$backend"} "$data" "$model" "$out/embedding.JOB"

python3 -m svq.bin.merge_jobs --expected "$data/utt2spk" --num-jobs "$nj" --log "$log" --ark "$out/embedding.ark" \
  "$out/embedding.JOB.scp" "$out/embedding.scp"
rm -f "$out"/embedding.*.{ark,scp}
echo "extract.sh: $(wc -l < "$out/embedding.scp") embeddings in $out/embedding.scp"
