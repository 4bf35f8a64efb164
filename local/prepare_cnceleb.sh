#!/usr/bin/env bash
# Makes data/cnceleb (CN-Celeb1 eval with its official trials), and with --train true data/cnceleb_dev and
# data/cnceleb_train, from https://www.openslr.org/82/ (cn-celeb_v2.tar.gz, cn-celeb2_v2.tar.gz):
#   local/prepare_cnceleb.sh --cnceleb1 /corpora/CN-Celeb_flac --data data
set -euo pipefail

cnceleb1=                      # CN-Celeb1 as unpacked: data, dev and eval
cnceleb2=                      # CN-Celeb2 as unpacked: data and spk.lst, to train on; empty: none
data=data                      # folder of the data directories
enrolment="several concat"     # several: trials, models of several recordings; concat: trials_concat, models of one each
train=false                    # true: also cnceleb_train and cnceleb_dev, to train or calibrate in the domain
dev_speakers=60                # speakers of dev.lst set aside for cnceleb_dev
dev_utts=20                    # utterances of each of these, from as many sessions as there are
num_nontarget=100000           # non-target pairs to draw for cnceleb_dev/trials; all, where there are fewer
counts=local/cnceleb.counts    # numbers of models, recordings, trials and speakers that must be found; empty: no check
check_only=false               # true: say whether the corpora are there, write nothing
seed=0                         # seed of the development speakers, utterances and trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_cnceleb.py --cnceleb1 "$cnceleb1" --cnceleb2 "$cnceleb2" --data "$data" \
  --enrolment "$enrolment" --train "$train" --dev-speakers "$dev_speakers" --dev-utts "$dev_utts" \
  --num-nontarget "$num_nontarget" --counts "$counts" --check-only "$check_only" --seed "$seed"
