#!/usr/bin/env bash
# Makes a trial list, <data-dir>/trials (or trials_<name>): every pair of utterances of one speaker as a target trial, and
# non-target pairs, all of them or a seeded draw. With --enroll-utts, models of several utterances (enroll.spk2utt) are
# compared with the remaining utterances. With --once, the list is like the use of a service: each of the remaining
# utterances is tested once, half of them against the model of their own speaker (its first utterance, or --enroll-utts).
# Usage: utils/make_trials.sh [options] <data-dir>
set -euo pipefail
name=              # writes trials_<name>; empty: trials
num_nontarget=0    # non-target pairs to draw; 0: all of them
or_fewer=false     # true: where fewer pairs exist than num_nontarget, take them all, without an error
same_gender=false  # true: non-target pairs only between speakers of the same gender (needs spk2gender)
enroll_utts=0      # utterances that enroll the model of a speaker; 0: no models, one utterance against another
once=false         # true: every utterance that is in no model is in exactly one trial
max_tests=0        # with --once: how many utterances are drawn to be tested; 0: all
seed=0             # seed of the draw
. "${0%"${0##*/}"}../utils/parse_options.sh"
[[ $# -eq 1 ]] || { echo "usage: ${0##*/} [options] <data-dir> (--help says more)" >&2; exit 2; }
. "${0%"${0##*/}"}../path.sh"
python3 -m svq.bin.data_dir make-trials --name="$name" --num-nontarget="$num_nontarget" --or-fewer "$or_fewer" \
  --same-gender "$same_gender" --enroll-utts="$enroll_utts" --once "$once" --max-tests="$max_tests" --seed="$seed" -- "$1"
