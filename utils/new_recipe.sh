#!/usr/bin/env bash
# Makes a recipe for your corpus, egs/<name>: run.sh, conf, local and README.md, from Kaldi data directories
# (utils/data_from_tree.sh makes them) and a trial list. It runs at once: bash egs/<name>/run.sh. Without --dev-data, the
# recipe sets some training speakers aside. It calibrates scores and chooses settings on them, never on test speakers.
# Usage: utils/new_recipe.sh <name> --train-data <dir> --test-data <dir> --trials <list> [options]
set -euo pipefail
train_data=     # Kaldi data directory of the speakers to train on
test_data=      # data directory of the speakers to test
trials=         # trial list of the test, in any form that utils/take_trials.sh reads; empty: that of test_data
dev_data=       # data directory to calibrate and choose settings on; empty: training speakers are set aside
dev_trials=     # trial list of dev_data; empty: its own, or one is drawn
dev_speakers=0  # training speakers to set aside; 0: a tenth, at least 10, at most a third of them
root=.          # folder that relative paths in the wav.scp of these directories start from
title=          # title of the report; empty: the name
egs=            # folder to make the recipe in; empty: egs of this checkout
if (($#)) && [[ $1 != -* ]]; then set -- "${@:2}" "$1"; fi  # the name may stand first
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 1 && -n $train_data && -n $test_data ]] || {
  echo "usage: ${0##*/} <name> --train-data <dir> --test-data <dir> --trials <list> [options] (--help says more)" >&2
  exit 2
}
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.new_recipe --train-data="$train_data" --test-data="$test_data" --trials="$trials" --dev-data="$dev_data" \
  --dev-trials="$dev_trials" --dev-speakers="$dev_speakers" --root="$root" --title="$title" --egs="$egs" -- "$1"
