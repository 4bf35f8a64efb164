#!/usr/bin/env bash
# Checks that VoxCeleb1, VoxCeleb2, the trial lists, MUSAN and RIRS_NOISES are there. Says what is missing and where it
# is published; exits with 1 if anything is missing.
set -euo pipefail

vox1=             # VoxCeleb1: wav/idNNNNN, or dev/wav and test/wav
vox2=             # VoxCeleb2: dev/aac/idNNNNN and test/aac/idNNNNN
trials=           # folder of the official trial lists, veri_test2.txt and so on
musan=            # MUSAN; empty: no noise is added in training
rirs=             # RIRS_NOISES; empty: no rooms are added in training
lists="O E H"     # Vox1 lists to prepare
originals=true    # true: also the original lists, besides the cleaned ones
dev_part="test"   # part of VoxCeleb2 that development speakers come from: test, or dev, which sets them aside

. utils/parse_options.sh
. ./path.sh

python3 local/check_voxceleb.py --vox1 "$vox1" --vox2 "$vox2" --trials "$trials" --musan "$musan" --rirs "$rirs" \
  --lists "$lists" --originals "$originals" --dev-part "$dev_part"
