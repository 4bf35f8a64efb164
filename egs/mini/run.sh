#!/usr/bin/env bash
# mini: synthetic speech, made on the spot; all stages in about twenty minutes on two cores, less with AMX. The
# figures show that the recipe works and how systems compare, not how they would do on people's voices.
#
#   bash run.sh                   everything
#   bash run.sh --stage 5         stage 5 and what follows
#   bash run.sh --dry-run         what would be done
#   bash run.sh --debug           a tiny version of it all, in debug/, for a look at the machinery
#
# A finished piece of work is skipped; a killed run goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
systems="teacher student teacher_kmqat4 teacher_best2 teacher_adaptive student_kmqat4"  # what is trained, scored and reported
trials="dev/trials test/trials test/trials_all"      # trial lists; the first one calibrates
backends="cosine plda"        # scoring back ends
norms="none asnorm"           # score normalizations
stage=0                       # first stage to run
stop_stage=15                 # last stage to run
dry_run=false                 # say what would be done, touch nothing
force=false                   # redo the chosen stages, finished or not
debug=false                   # a few speakers and tiny networks; results without meaning
nj=2                          # parallel jobs of data preparation and features
extract_nj=2                  # parallel jobs of embedding extraction
num_gpus=0                    # GPUs to train on and to compute embeddings with; 0: the CPU
systems_nj=2                  # systems worked on at a time, in stages 5 to 10
int8_runtime=openvino         # what runs NAME-int8 systems: openvino or onnxruntime (utils/setup.sh --extras deploy)
search=                       # float systems whose settings of finetuning are searched (stage 13); empty: none
search_row=kmqat4             # the row of conf/quant that the search starts from
search_nj=1                   # workers that share a search
analysis=teacher              # float systems of which is asked why bits cost what they cost (stage 14); empty: none
analysis_rows=kmqat4          # rows of conf/quant whose layers are looked into there
analysis_utts=60              # utterances of the first list that they are looked into with; 0: all
ladders=teacher_adaptive:teacher_kmqat4:teacher  # cascades (stage 15): systems from the cheapest on, a:b:c; empty: none
cascade_limits=eer_loss=0.05  # what a cascade may lose or cost on the first list (steps/cascade.sh)
cascade_run=false             # also run cascades, and each rung alone, one trial at a time, and measure seconds
max_probes=20                 # probes of a Hessian trace, at most (stage 5)
lda_dim=64                    # dimensions kept before PLDA
top_n=40                      # cohort speakers in AS-norm
cohort_per_spk=0              # utterances of each training speaker in the cohort (AS-norm, mean, PLDA); 0: all
seed=0                        # of voices, texts, sessions and trials
conf=conf                     # folder of the systems' settings
corpus=corpus                 # where the synthetic recordings go
data=data                     # data directories
exp=exp                       # everything that is computed
report=                       # folder of results.tsv and report.html; empty: $exp
title="mini (synthetic speech)"  # the report's title
. utils/parse_options.sh
size=()
if [[ $debug == true ]]; then
  if [[ $conf == conf ]]; then conf=conf/debug; fi
  size=(--train-speakers 8 --dev-speakers 4 --test-speakers 4 --utts 6 --noises 4 --rirs 4)
  for folder in corpus data exp; do
    if [[ ${!folder} != /* ]]; then printf -v "$folder" '%s' "debug/${!folder}"; fi
  done
fi
. ./path.sh
. ./cmd.sh
. utils/stages.sh
. steps/recipe.sh

if stage 0 "corpus"; then
  once --out "$corpus" --stamp "$corpus/.done" -- local/prepare_mini.sh --part corpus --nj "$nj" --seed "$seed" \
    --corpus "$corpus" ${size[@]+"${size[@]}"}
fi

if stage 1 "data directories"; then
  once --in "0:$corpus/.done" --out "$data/train" --out "$data/dev" --out "$data/test" --out "$data/noise" \
    --out "$data/rir" --stamp "$data/.done.prepare" -- \
    local/prepare_mini.sh --part data --seed "$seed" --corpus "$corpus" --data "$data" ${size[@]+"${size[@]}"}
  validate_data train dev test
fi

if stage 2 "features"; then
  make_features train dev test
  choose_cohort
fi

if stage 3 "teacher"; then
  train_teachers train
fi

if stage 4 "distillation"; then
  distill_students train
fi

if stage 5 "sensitivity, bit allocation, quantization, finetuning, export"; then
  measure_sensitivity train
  allocate_bits
  select_blocks
  quantize_systems train
  take_members
  export_systems
fi

if stage 6 "embeddings"; then
  extract_embeddings
fi

if stage 7 "scores"; then
  train_plda
  for_each_scoring score_trials
fi

if stage 8 "score normalization"; then
  for_each_scoring normalize_scores
fi

if stage 9 "calibration"; then
  calibrate_scores
fi

if stage 10 "packing"; then
  pack_systems
fi

if stage 11 "tables and report"; then
  make_report
fi

if stage 12 "figures and tables on quantization"; then
  report_quantization
fi

if stage 13 "search of settings, identification, trade-off"; then
  search_settings train
  trade_off
fi

if stage 14 "why bits cost what they cost: scores, layers"; then
  analyse_scores
  analyse_layers
fi

if stage 15 "cascades"; then
  run_cascades
fi
stages_done
