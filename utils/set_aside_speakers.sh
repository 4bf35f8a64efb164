#!/usr/bin/env bash
# Sets speakers of a data directory aside, to calibrate and choose settings on: writes <aside-dir> with them and
# <rest-dir> without them. Draws them from the speakers with two utterances or more, and with a spk2gender keeps the share
# of each gender.
# Usage: utils/set_aside_speakers.sh [options] <src-dir> <rest-dir> <aside-dir>
set -euo pipefail
speakers=20  # speakers to draw
utts=0       # utterances of each drawn speaker that <aside-dir> keeps, spread over the speaker's list; 0: all
seed=0       # seed of the draw
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 3 ]] || { echo "usage: ${0##*/} [options] <src-dir> <rest-dir> <aside-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir set-aside --speakers="$speakers" --utts="$utts" --seed="$seed" -- "$1" "$2" "$3"
