#!/usr/bin/env bash
# Searches settings of quantization-aware finetuning with Optuna. Writes <dir>/best (the folder of the best trial, an
# ordinary system), <dir>/best.yaml (its settings, to train by), <dir>/trials.tsv and <dir>/study.db.
#
# Usage: steps/search.sh [options] <search.yaml> <train.yaml> <data-dir> <float-model-dir> <dev-dir> <dir>
#   e.g. steps/search.sh --nj 4 conf/search.yaml conf/finetune.yaml:kmqat4 data/train_wav exp/teacher data/dev exp/search
# Workers share one study; together they do as many trials as `trials` in <search.yaml> says. Where the search or some of
# its workers were killed, the same command goes on; unfinished trials go on from their last checkpoints.
# The file system of <dir> needs locks that work across the machines of the workers (SQLite needs them too).
# shellcheck disable=SC2154,SC2086
set -euo pipefail
cmd=run.py     # dispatcher
nj=1           # number of workers
num_gpus=0     # GPUs of a worker, 1 at most; 0: the CPU
num_threads=1  # CPU threads the dispatcher reserves for a worker
mem=8G         # memory the dispatcher reserves
_forward_to=("svq.bin.search but config train init data dev out restart-id set")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 6)) || { echo "search.sh: needs <search.yaml> <train.yaml> <data-dir> <float-model-dir> <dev-dir> <dir>" \
  "(--help says more)" >&2; exit 2; }
((nj >= 1)) || { echo "search.sh: --nj must be at least 1" >&2; exit 2; }
((num_gpus <= 1)) || { echo "search.sh: a trial takes one GPU: --num-gpus 1, with more workers by --nj" >&2; exit 2; }
dir=${6%/}
step --dear --in "$1" --config "$2" --speech "${3%/}" --reads settings ${noise:+--noise "$noise"} ${rir:+--noise "$rir"} \
  --in "${4%/}/model.safetensors" --in "${trials:-${5%/}/trials}" --speech "${5%/}" --out "$dir/trials.tsv" \
  --out "$dir/best.yaml" --out "$dir/best/model.safetensors" --neutral num-gpus --neutral restart

if [[ -n ${SVQ_ANEW-} && $restart == true ]]; then restart=always; fi
options=(--config "$1" --train "$2" --data "${3%/}" --init "$4" --dev "${5%/}" --out "$dir")
if [[ $restart == always ]]; then options+=(--restart always --restart-id "$HOSTNAME.$$.$(date +%s)"); fi
launch=(python3) resources=(--mem "$mem" --num-threads "$num_threads")
if ((num_gpus > 0)); then
  resources+=(--gpu "$num_gpus")
else
  launch=(env CUDA_VISIBLE_DEVICES= python3)      # it would take a card that it sees
fi

export SVQ_RESUMES=1  # trials go on from their checkpoints: a cluster may end a worker at its time limit and start it again
$cmd "${resources[@]}" JOB=1:"$nj" "$dir/log/search.JOB.log" "${launch[@]}" -m svq.bin.search "${to_search[@]}" "${options[@]}"
trials_done=$(($(wc -l < "$dir/trials.tsv") - 1))
if [[ -e $dir/best ]]; then
  echo "search.sh: the best of $trials_done trials is $dir/$(readlink "$dir/best"), its settings are in $dir/best.yaml"
else
  echo "search.sh: none of $trials_done trials was completed; see $dir/trials.tsv" >&2
  exit 1
fi
