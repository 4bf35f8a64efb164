#!/usr/bin/env bash
# Makes shards of a data directory: tar archives of compressed recordings in random order, a few hundred MB each. Writes
# a data directory whose wav.scp points into them. Training reads the shards in long pieces (docs/storage.md); all other
# steps read <data-out> like any data directory. Segments are cut out, channels selected, other rates resampled.
#
# Usage: steps/make_shards.sh [options] <data-in> <data-out> [<shard-dir>]
#   e.g. steps/make_shards.sh --codec flac --cmd "$train_cmd" --nj 32 data/train data/train_shards /scratch/shards
#
# The default of <shard-dir> is <data-out>/shards. Every shard is read back before it gets its name. After a killed
# run, the next makes only the shards that are missing.
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py  # dispatcher
nj=4        # number of jobs
_forward_to=("svq.bin.make_shards write but job num-jobs" "svq.bin.make_shards join only speeds")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2 || $# == 3)) || { echo "make_shards.sh: needs <data-in> <data-out> [<shard-dir>] (--help says more)" >&2; exit 2; }
((nj >= 1)) || { echo "make_shards.sh: --nj must be at least 1" >&2; exit 2; }
data=${1%/} out=${2%/} shards=${3:-${2%/}/shards}
# <shard-dir> is left out: where shards lie does not change what they hold.
svq_arguments=("$data" "$out")
step --dear --in "$data/utt2spk" --in "$data/wav.scp" --recordings "$data/wav.scp" --maybe "$data/segments" \
  --maybe "$data/reco2file_and_channel" --out "$out/wav.scp" --out "$out/utt2spk" --out "$out/shards.json" --out "$out/shards.index"

stem=$shards/${out##*/}
fresh "$shards/index"  # if inputs changed, drops the old tables: a shard without its table is made again
mkdir -p "$shards/index" "$out/log"
$cmd JOB=1:"$nj" "$out/log/make_shards.JOB.log" python3 -m svq.bin.make_shards write "${to_write[@]}" \
  --job JOB --num-jobs "$nj" "$data" "$stem"
python3 -m svq.bin.make_shards join --data "$data" "${to_join[@]}" -- "$out" "$stem"
