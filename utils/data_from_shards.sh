#!/usr/bin/env bash
# Makes a data directory of existing shards, such as WeSpeaker's: tar archives that hold KEY.spk and KEY.wav (flac, ogg,
# m4a, ...) of each utterance. Each shard is read once, front to back, and not changed. <list> names them, one a line.
# Usage: utils/data_from_shards.sh [options] <list> <data-dir>
set -euo pipefail
cmd=run.py  # dispatcher
nj=4        # number of jobs
_forward_to=("svq.bin.make_shards join only speeds")
. "${0%"${0##*/}"}../utils/parse_options.sh"
(($# == 2)) || { echo "usage: ${0##*/} [options] <list> <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"
list=$1 data=${2%/}
[[ -r $list ]] || { echo "data_from_shards.sh: $list: not there, or cannot be read; it must name the shards, one a line" >&2; exit 1; }
mapfile -t shards < <(grep -v '^[[:space:]]*$' -- "$list")
((${#shards[@]})) || { echo "data_from_shards.sh: $list names no shard" >&2; exit 1; }
inputs=()
for shard in "${shards[@]}"; do inputs+=(--in "$shard"); done
step --dear --in "$list" "${inputs[@]}" --out "$data/wav.scp" --out "$data/utt2spk" --out "$data/shards.json" --out "$data/shards.index"
stem=$data/.shards/${data##*/}
fresh "$data/.shards/index"
mkdir -p "$data/.shards/index" "$data/log"
# shellcheck disable=SC2086  # a dispatcher may carry options
$cmd JOB=1:"$nj" "$data/log/data_from_shards.JOB.log" python3 -m svq.bin.make_shards index --job JOB --num-jobs "$nj" -- "$stem" "${shards[@]}"
python3 -m svq.bin.make_shards join ${to_join[@]+"${to_join[@]}"} -- "$data" "$stem" "${shards[@]}"
