#!/usr/bin/env bash
# Are VoxCeleb1, VoxCeleb2, the trial lists, MUSAN and RIRS_NOISES there? Says all that is missing and where
# it is published; exit status 1 if anything is.
set -euo pipefail

vox1=             # VoxCeleb1: wav/idNNNNN, or dev/wav and test/wav
vox2=             # VoxCeleb2: dev/aac/idNNNNN and test/aac/idNNNNN
trials=           # folder of the official trial lists, veri_test2.txt and so on
musan=            # MUSAN; empty: no noise is added in training
rirs=             # RIRS_NOISES; empty: no rooms are added in training
lists="O E H"     # Vox1 lists to prepare
originals=true    # the original lists beside the cleaned ones
dev_part="test"   # development speakers: of VoxCeleb2 test, or set aside from dev

. utils/parse_options.sh
. ./path.sh

python3 local/check_voxceleb.py --vox1 "$vox1" --vox2 "$vox2" --trials "$trials" --musan "$musan" --rirs "$rirs" \
  --lists "$lists" --originals "$originals" --dev-part "$dev_part"
