#!/usr/bin/env bash
# Takes over a trial list: writes it as <data-dir>/trials (or trials_<name>) with the ids of that directory and the labels
# target and nontarget. The lines of the list may be `enroll test target|nontarget`, `enroll test 1|0`, or, as in VoxCeleb,
# `1|0 enroll test`. Paths may stand in place of ids: a path means the utterance whose file ends in it, so that
# id10001/1zcIwhmdeo4/00001.wav means that of /corpora/voxceleb1/wav/id10001/1zcIwhmdeo4/00001.wav. An unknown id or path,
# or a label that contradicts the speakers, is an error that names its line, and nothing is written.
# Usage: utils/take_trials.sh [options] <list> <data-dir>
set -euo pipefail
name=  # writes trials_<name>; empty: trials
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 2 ]] || { echo "usage: ${0##*/} [options] <list> <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir take-trials --name="$name" -- "$1" "$2"
