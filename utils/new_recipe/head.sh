#!/usr/bin/env bash
# @NAME@: a recipe for a corpus of your own. Takes the data directories below to a teacher, a distilled student and their
# quantized versions of 4 bits to 1, with a report. README.md says what to change.
#
#   bash run.sh --dry-run         what would be done
#   bash run.sh                   everything
#   bash run.sh --stage 5         stage 5 and what follows
#
# A finished piece of work is skipped; a killed run goes on where it was.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"   # sh run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
train_data=@TRAIN_DATA@  # data directory of the speakers to train on
test_data=@TEST_DATA@  # data directory of the speakers to test
dev_data=@DEV_DATA@  # data directory to calibrate and choose settings on; empty: dev_speakers training speakers
test_trials=@TEST_TRIALS@  # trial list of test_data, in any form that utils/take_trials.sh reads
dev_trials=@DEV_TRIALS@  # trial list of dev_data; empty: all target pairs and a draw of 100,000 others
dev_speakers=@DEV_SPEAKERS@  # training speakers set aside where there is no dev_data
dev_utts=20 # utterances to keep of each speaker set aside; 0: all
root=@ROOT@  # folder that relative paths in the wav.scp of these directories start from
noise=  # folder of noise recordings for augmentation
rir=  # folder of room impulse responses for augmentation
