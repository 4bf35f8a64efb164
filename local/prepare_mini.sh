#!/usr/bin/env bash
# Makes the mini corpus, synthetic speech made on the spot with espeak-ng (no recordings of people), and its data
# directories data/train, data/dev, data/test, data/noise and data/rir. The same options give the same bytes,
# whatever --nj is; a run that was killed and is run again gives the same result.
set -euo pipefail

corpus=corpus             # folder of the audio; must not exist, or must be an earlier mini corpus
data=data                 # folder of the data directories
part=all                  # corpus: make only the audio; data: only the data directories; all: both
nj=2                      # number of processes
train_speakers=84         # speakers of data/train; half of them are women, as in the other sets
dev_speakers=16           # speakers of data/dev, to calibrate and choose settings on
test_speakers=40          # speakers of data/test
utts=12                   # utterances of each speaker, 2 to 4 s each, all of different text
noises=40                 # noise clips for augmentation
rirs=40                   # room impulse responses for augmentation
session_strength=1.0      # how far recordings of one speaker differ: 0 is clean, larger is harder
num_nontarget=20000       # same-gender non-target pairs to draw for dev/trials, test/trials; all, where there are fewer
max_all_nontarget=100000  # non-target pairs of test/trials_all, at most
seed=0                    # seed of voices, texts, sessions and trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_mini.py --corpus="$corpus" --data="$data" --part="$part" --nj "$nj" \
  --train-speakers "$train_speakers" --dev-speakers "$dev_speakers" --test-speakers "$test_speakers" \
  --utts "$utts" --noises "$noises" --rirs "$rirs" --session-strength "$session_strength" \
  --num-nontarget "$num_nontarget" --max-all-nontarget "$max_all_nontarget" --seed "$seed"
