#!/usr/bin/env bash
# Decodes every recording of a data directory once (pipes, Ogg, m4a, any rate, segments) to archives of mono WAVs, and
# writes a data directory that points there. Training can then read a part of a recording with a seek. A copy has exactly
# the samples of its recording: as 16-bit integers where these hold them, else (resampled, averaged, 24 bits) as floats.
# Usage: utils/copy_wav.sh [options] <data-in> <data-out> [<ark-dir>]
# The default of <ark-dir> is <data-out>/data.
set -euo pipefail
cmd=run.py  # dispatcher: run.py, slurm.py, or Kaldi's
nj=4        # number of jobs
rate=16000  # samples per second of the WAVs
. "${0%"${0##*/}"}../utils/parse_options.sh"
(($# == 2 || $# == 3)) || { echo "usage: ${0##*/} [options] <data-in> <data-out> <ark-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"
data=${1%/} out=${2%/}
ark_dir=${3:-$out/data}
# What the archives hold does not depend on where they lie.
svq_arguments=("$data" "$out")
step --dear --in "$data/utt2spk" --in "$data/wav.scp" --recordings "$data/wav.scp" --maybe "$data/segments" \
  --maybe "$data/reco2file_and_channel" --out "$out/wav.scp" --out "$out/utt2spk"
count=$(wc -l < "$data/utt2spk")
nj=$((nj < count ? nj : count))
python3 -m svq.bin.data_dir split --per-utt true -- "$data" "$nj" > /dev/null
mkdir -p "$ark_dir"
stem=$ark_dir/wav_${out##*/}
# shellcheck disable=SC2086  # a dispatcher may carry options
$cmd JOB=1:"$nj" "$out/log/copy_wav.JOB.log" \
  python3 -m svq.bin.copy_wav part --rate "$rate" "$data/split${nj}utt/JOB" "$stem.JOB.ark"
arks=()
for ((j = 1; j <= nj; j++)); do arks+=("$stem.$j.ark"); done
python3 -m svq.bin.copy_wav join -- "$data" "$out" "${arks[@]}"
