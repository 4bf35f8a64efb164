#!/usr/bin/env bash
# Makes data/train (VoxCeleb2 dev), data/dev, data/vox1 with its official trial lists, and data/noise and data/rir from
# MUSAN and RIRS_NOISES. Run local/check_voxceleb.sh first: it says whether all of it is there.
set -euo pipefail

vox1=                             # VoxCeleb1: wav/idNNNNN, or dev/wav and test/wav
vox2=                             # VoxCeleb2: dev/aac/idNNNNN and test/aac/idNNNNN
trials=                           # folder of the official trial lists, veri_test2.txt and so on
musan=                            # MUSAN, or any folder of noises; empty: none
rirs=                             # RIRS_NOISES, or any folder of room impulse responses; empty: none
musan_parts="music noise speech"  # parts of MUSAN to use
data=data                         # folder of the data directories
lists="O E H"                     # Vox1 lists to prepare
originals=true                    # true: also the original lists, besides the cleaned ones
dev_part="test"                   # part of VoxCeleb2 that development speakers come from: test, or dev, which sets them aside
dev_speakers=100                  # number of development speakers
dev_utts=20                       # utterances of each of these, from as many videos as there are
num_nontarget=100000              # non-target pairs to draw for dev/trials; all, where there are fewer
vox1_list=                        # file of the paths of VoxCeleb1, one a line, where listing a slow disk takes long
vox2_list=                        # the same for VoxCeleb2
vox1_meta=                        # the official vox1_meta.csv, for spk2gender; empty: none
vox2_meta=                        # the official vox2_meta.csv, for spk2gender and same-gender dev trials; empty: none
counts=local/voxceleb.counts      # numbers of speakers, utterances and trials that must be found; empty: no check
seed=0                            # seed of the development speakers, utterances and trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_voxceleb.py --vox1 "$vox1" --vox2 "$vox2" --trials "$trials" --data "$data" \
  --lists "$lists" --originals "$originals" --dev-part "$dev_part" --dev-speakers "$dev_speakers" \
  --dev-utts "$dev_utts" --num-nontarget "$num_nontarget" --vox1-list "$vox1_list" --vox2-list "$vox2_list" \
  --vox1-meta "$vox1_meta" --vox2-meta "$vox2_meta" --counts "$counts" --seed "$seed"
if [[ -n $musan || -n $rirs ]]; then
  local/prepare_noise_rir.sh --noise="$musan" --rir="$rirs" --musan-parts "$musan_parts" --data "$data"
fi
