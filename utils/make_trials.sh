#!/usr/bin/env bash
# Makes a trial list, <data-dir>/trials (or trials_<name>): every pair of utterances of one speaker as a target
# trial, and non-target pairs, all of them or a seeded draw. With --enroll-utts, models of several utterances
# (enroll.spk2utt) against the remaining utterances. With --once, as a service is used: each of these is tested once,
# half of them against their own speaker's model (its first utterance, unless --enroll-utts says more).
# Usage: utils/make_trials.sh [options] <data-dir>
set -euo pipefail
name=              # writes trials_<name>; empty: trials
num_nontarget=0    # non-target pairs to draw; 0: all of them
or_fewer=false     # where there are fewer of these, all, and no error
same_gender=false  # non-target pairs only between speakers of one gender (takes spk2gender)
enroll_utts=0      # utterances of a speaker that make its model; 0: one utterance against one
once=false         # whether every utterance that is in no model is in one trial
max_tests=0        # with --once: so many utterances are drawn to be tested; 0: all
seed=0             # seed of the draw
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 1 ]] || { echo "usage: ${0##*/} [options] <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir make-trials --name="$name" --num-nontarget="$num_nontarget" --or-fewer "$or_fewer" \
  --same-gender "$same_gender" --enroll-utts="$enroll_utts" --once "$once" --max-tests="$max_tests" --seed="$seed" -- "$1"
