#!/usr/bin/env bash
# Makes data/train, data/dev and data/test from speechocean762 (https://www.openslr.org/101/;
# local/download_speechocean762.sh gets it), and data/noise and data/rir from any folders of recordings.
set -euo pipefail

corpus=                           # speechocean762 as unpacked: the folder of WAVE, train and test
extra_corpus=                     # more speech to train on, in LibriSpeech's layout, cut into pieces; empty: none
noise=                            # folder of noises for augmentation, or MUSAN; empty: none
rir=                              # folder of room impulse responses, or RIRS_NOISES; empty: none
musan_parts="music noise speech"  # parts of MUSAN to use
data=data                         # folder of the data directories
dev_speakers=20                   # training speakers set aside for development
num_nontarget=100000              # non-target pairs to draw for test/trials and dev/trials; all, where there are fewer
piece_seconds=4.0                 # length of a piece of the extra corpus
shortest_seconds=2.0              # a last piece shorter than this is dropped
seed=0                            # seed of the speakers set aside and the trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_speechocean762.py --corpus "$corpus" --extra-corpus "$extra_corpus" --data "$data" \
  --dev-speakers "$dev_speakers" --num-nontarget "$num_nontarget" --piece-seconds "$piece_seconds" \
  --shortest-seconds "$shortest_seconds" --seed "$seed"
if [[ -n $noise || -n $rir ]]; then
  local/prepare_noise_rir.sh --noise="$noise" --rir="$rir" --musan-parts "$musan_parts" --data "$data"
fi
