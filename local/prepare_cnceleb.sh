#!/usr/bin/env bash
# data/cnceleb (CN-Celeb1 eval with its official trials), and with --train true data/cnceleb_dev and
# data/cnceleb_train, from https://www.openslr.org/82/ (cn-celeb_v2.tar.gz, cn-celeb2_v2.tar.gz).
# local/prepare_cnceleb.sh --cnceleb1 /corpora/CN-Celeb_flac --data data
set -euo pipefail

cnceleb1=                      # CN-Celeb1 as unpacked: data, dev and eval
cnceleb2=                      # CN-Celeb2 as unpacked: data and spk.lst; empty: none to train on
data=data                      # folder of the data directories
enrolment="several concat"     # several: trials, models of several recordings; concat: trials_concat, of one each
train=false                    # also cnceleb_train and cnceleb_dev, to train or calibrate in the domain
dev_speakers=60                # speakers of dev.lst set aside for cnceleb_dev
dev_utts=20                    # utterances of each, from as many sessions as there are
num_nontarget=100000           # non-target pairs drawn for cnceleb_dev/trials; fewer: all
counts=local/cnceleb.counts    # numbers of models, recordings, trials, speakers to find; empty: no check
check_only=false               # say whether the corpora are there, write nothing
seed=0                         # for the development speakers, utterances and trials

. utils/parse_options.sh
. ./path.sh

python3 local/prepare_cnceleb.py --cnceleb1 "$cnceleb1" --cnceleb2 "$cnceleb2" --data "$data" \
  --enrolment "$enrolment" --train "$train" --dev-speakers "$dev_speakers" --dev-utts "$dev_utts" \
  --num-nontarget "$num_nontarget" --counts "$counts" --check-only "$check_only" --seed "$seed"
