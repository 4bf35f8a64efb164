#!/usr/bin/env bash
# Makes data/train, data/dev and data/test from the data directories that run.sh names, and data/noise and data/rir from
# folders of recordings; then their trial lists. Leaves the given directories as they are, and copies no recordings.
set -euo pipefail

train_data=       # data directory of the speakers to train on
test_data=        # data directory of the speakers to test
dev_data=         # data directory to calibrate and choose settings on; empty: dev_speakers training speakers
test_trials=      # trial list of test_data
dev_trials=       # trial list of dev_data; empty: all target pairs and a draw of others
dev_speakers=10   # training speakers set aside where there is no dev_data
dev_utts=20       # utterances to keep of each speaker set aside; 0: all
root=.            # folder that relative paths in wav.scp start from
noise=            # folder of noises for augmentation, or MUSAN; empty: none
rir=              # folder of room impulse responses, or RIRS_NOISES; empty: none
data=data         # folder of the data directories
part=all          # directories, trials (lists, in directories that are there) or all
seed=0            # seed of the speakers set aside and the trials

. utils/parse_options.sh
. ./path.sh

if [[ $part != trials ]]; then
  # Test speakers decide no setting, and no network is trained on them.
  python3 -m svq.bin.data_dir disjoint "$train_data" "$test_data" ${dev_data:+"$dev_data"}
  utils/copy_data_dir.sh --root "$root" "$test_data" "$data/test"
  if [[ -n $dev_data ]]; then
    utils/copy_data_dir.sh --root "$root" "$train_data" "$data/train"
    utils/copy_data_dir.sh --root "$root" "$dev_data" "$data/dev"
  else
    utils/copy_data_dir.sh --root "$root" "$train_data" "$data/given"
    utils/set_aside_speakers.sh --speakers "$dev_speakers" --utts "$dev_utts" --seed "$seed" \
      "$data/given" "$data/train" "$data/dev"
  fi
  if [[ -n $noise || -n $rir ]]; then
    local/prepare_noise_rir.sh --noise="$noise" --rir="$rir" --data "$data"
  fi
fi

# take_lists DATA-DIR SET: takes the lists trials_NAME of a directory that was given, and removes those taken before that it
# has no more. Lists that you make in data/SET stay.
take_lists() {
  local list note=$data/$2/.taken
  if [[ -e $note ]]; then
    while read -r list; do if [[ ! -e $1/$list ]]; then rm -f -- "$data/$2/$list"; fi; done < "$note"
  fi
  for list in "$1"/trials_*; do if [[ -e $list ]]; then printf '%s\n' "${list##*/}"; fi; done > "$note"
  for list in "$1"/trials_*; do
    if [[ -e $list ]]; then utils/take_trials.sh --name "${list##*/trials_}" "$list" "$data/$2"; fi
  done
}

if [[ $part != directories ]]; then
  utils/take_trials.sh "$test_trials" "$data/test"
  take_lists "$test_data" test
  if [[ -n $dev_data ]]; then take_lists "$dev_data" dev; fi
  if [[ -n $dev_trials ]]; then
    utils/take_trials.sh "$dev_trials" "$data/dev"
  else
    same_gender=false
    if [[ -e $data/dev/spk2gender ]]; then same_gender=true; fi
    utils/make_trials.sh --num-nontarget 100000 --or-fewer true --same-gender "$same_gender" --seed "$seed" "$data/dev"
  fi
fi
