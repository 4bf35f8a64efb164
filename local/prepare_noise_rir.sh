#!/usr/bin/env bash
# Makes data/noise and data/rir for augmentation, from any folders of clips and of room impulse responses, or from the
# official MUSAN (https://www.openslr.org/17/) and RIRS_NOISES (https://www.openslr.org/28/).
set -euo pipefail

noise=                            # folder of noises, or MUSAN; empty: none
rir=                              # folder of room impulse responses, or RIRS_NOISES; empty: none
musan_parts="music noise speech"  # parts of MUSAN to use
data=data                         # folder of the data directories noise and rir

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_noise_rir.py --noise "$noise" --rir "$rir" --musan-parts "$musan_parts" --data "$data"
