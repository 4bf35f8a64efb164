#!/usr/bin/env bash
# Computes the log-mel features of a data directory: writes feats.scp and utt2num_frames, and the archives to <ark-dir>.
# feats.yaml keeps the settings; models with another front end refuse the features.
# Features follow Kaldi's definition: 80 mels, windows of 25 ms every 10 ms, no dither.
#
# Usage: steps/make_fbank.sh [options] <data-dir> [<log-dir> [<ark-dir>]]
#   e.g. steps/make_fbank.sh --nj 8 --cmd "$train_cmd" data/train exp/make_fbank/train fbank
# By default logs go to <data-dir>/log, archives to <data-dir>/data.
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py  # dispatcher
nj=4        # number of jobs
_forward_to=("svq.bin.make_fbank but job num-jobs num-threads")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# >= 1 && $# <= 3)) || { echo "make_fbank.sh: needs <data-dir> [<log-dir> [<ark-dir>]] (--help says more)" >&2; exit 2; }
((nj >= 1)) || { echo "make_fbank.sh: --nj must be at least 1" >&2; exit 2; }
data=${1%/} logs=${2:-${1%/}/log} arks=${3:-${1%/}/data}
# What the archives hold does not depend on where archives and logs lie.
svq_arguments=("$data")
step --dear --in "$data/wav.scp" --recordings "$data/wav.scp" --in "$data/utt2spk" --maybe "$data/segments" --maybe "$data/reco2file_and_channel" \
  --out "$data/feats.scp" --out "$data/feats.yaml" --out "$data/utt2num_frames"

name=$arks/fbank_${data##*/}
log=$logs/make_fbank_${data##*/}.JOB.log
mkdir -p "$logs" "$arks"
# Remove what an earlier run left: the archives under its feats.scp are about to change.
rm -f "$data/feats.scp" "$data/feats.yaml" "$data/utt2num_frames" "$name".*.{scp,num_frames,yaml,ark}

$cmd JOB=1:"$nj" "$log" python3 -m svq.bin.make_fbank "${to_make_fbank[@]}" --job JOB --num-jobs "$nj" \
  "$data" "$name.JOB"

merge=(python3 -m svq.bin.merge_jobs --expected "$data/utt2spk" --num-jobs "$nj" --log "$log")
"${merge[@]}" "$name.JOB.num_frames" "$data/utt2num_frames"
mv -f "$name.1.yaml" "$data/feats.yaml"
"${merge[@]}" "$name.JOB.scp" "$data/feats.scp"
rm -f "$name".*.{num_frames,yaml}
echo "make_fbank.sh: features of $(wc -l < "$data/feats.scp") utterances in $data/feats.scp"
