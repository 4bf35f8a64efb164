#!/usr/bin/env bash
# Writes <data-dir>/utt2dur, the seconds of every utterance. They come from segments, from headers, or, for pipes, from
# decoding.
# Usage: utils/get_utt2dur.sh [options] <data-dir>
set -euo pipefail
cmd=run.py  # dispatcher: run.py, slurm.py, or Kaldi's
nj=4        # number of jobs
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 1 ]] || { echo "usage: ${0##*/} [options] <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
data=${1%/}
[[ -f $data/utt2spk ]] || { echo "${0##*/}: $data/utt2spk is missing" >&2; exit 1; }
count=$(wc -l < "$data/utt2spk")
nj=$((nj < count ? nj : count))
python3 -m svq.bin.data_dir split --per-utt true -- "$data" "$nj" > /dev/null
split=$data/split${nj}utt
# shellcheck disable=SC2086  # a dispatcher may carry options
$cmd JOB=1:"$nj" "$data/log/get_utt2dur.JOB.log" \
  python3 -m svq.bin.data_dir utt2dur "$split/JOB" "$split/JOB/utt2dur"
parts=()
for ((j = 1; j <= nj; j++)); do parts+=("$split/$j/utt2dur"); done
python3 -m svq.bin.data_dir merge --like "$data/utt2spk" -- "$data/utt2dur" "${parts[@]}"
