#!/usr/bin/env bash
# VoxCeleb: trained on VoxCeleb2 dev, tested on Vox1-O, Vox1-E and Vox1-H, as in Liu et al., "Towards
# lightweight speaker verification via adaptive neural network quantization".
#
#   bash run.sh --vox1 /corpora/voxceleb1 --vox2 /corpora/voxceleb2 --lists /corpora/voxceleb1/lists \
#     --musan /corpora/musan --rirs /corpora/RIRS_NOISES --num-gpus 4
#
# A finished piece of work is skipped; a killed run goes on where it was. On Slurm: see cmd.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
vox1=corpus/voxceleb1         # VoxCeleb1: wav/idNNNNN, or dev/wav and test/wav
vox2=corpus/voxceleb2         # VoxCeleb2: dev/aac/idNNNNN and test/aac/idNNNNN
lists=corpus/voxceleb1        # folder of the official trial lists, veri_test2.txt and so on
musan=corpus/musan            # MUSAN; empty: no noise is added in training
rirs=corpus/RIRS_NOISES       # RIRS_NOISES; empty: no rooms are added in training
counts=local/voxceleb.counts  # how many speakers, utterances and trials to find; empty: no check
dev_speakers=100              # of VoxCeleb2's test part, for calibration
systems="teacher student teacher_kmqat4 teacher_mixed2 teacher_adaptive student_kmqat4"  # what is trained, scored and reported
trials="dev/trials vox1/trials_O vox1/trials_E vox1/trials_H"  # trial lists; the first one calibrates
backends="cosine plda"        # scoring back ends
norms="none asnorm"           # score normalizations
stage=0                       # first stage to run
stop_stage=15                 # last stage to run
dry_run=false                 # say what would be done, touch nothing
force=false                   # redo the chosen stages, finished or not
nj=16                         # parallel jobs of data preparation and features
extract_nj=8                  # parallel jobs of embedding extraction
num_gpus=0                    # GPUs to train on and to compute embeddings with; 0: the CPU
systems_nj=1                  # systems worked on at a time, in stages 5 to 10
int8_runtime=openvino         # what runs NAME-int8 systems: openvino or onnxruntime (utils/setup.sh --extras deploy)
search=                       # float systems whose settings of finetuning are searched (stage 13); empty: none
search_row=kmqat4             # the row of conf/quant that the search starts from
search_nj=1                   # workers that share a search
analysis=                     # float systems of which is asked why bits cost what they cost (stage 14); empty: none
analysis_rows=kmqat4          # rows of conf/quant whose layers are looked into there
analysis_utts=1000            # utterances of the first list that they are looked into with; 0: all
ladders=                      # cascades (stage 15): systems from the cheapest on, a:b:c; empty: none
cascade_limits=eer_loss=0.05  # what a cascade may lose or cost on the first list (steps/cascade.sh)
cascade_run=false             # also run cascades, and each rung alone, one trial at a time, and measure seconds
max_probes=200                # probes of a Hessian trace, at most (stage 5)
speed_perturb=true            # copies at 0.9 and 1.1 of the speed as new speakers (17,982 in all);
                              # decoded for training they take about 0.8 TB, 0.26 TB without
lda_dim=256                   # dimensions kept before PLDA
top_n=300                     # cohort speakers in AS-norm
cohort_per_spk=0              # utterances of each training speaker in the cohort (AS-norm, mean, PLDA); 0: all
conf=conf                     # folder of the systems' settings
data=data                     # data directories
exp=exp                       # everything that is computed
report=                       # folder of results.tsv and report.html; empty: $exp
title="VoxCeleb"              # the report's title
. utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. utils/stages.sh
. steps/recipe.sh

if stage 0 "corpora"; then
  once --out "$vox1" --out "$vox2" --out "$lists" --stamp "$exp/.done.corpora" -- \
    local/check_voxceleb.sh --vox1 "$vox1" --vox2 "$vox2" --trials "$lists" --musan="$musan" --rirs="$rirs"
fi

if stage 1 "data directories"; then
  once --in "0:$vox1" --in "0:$vox2" --in "0:$lists" \
    --out "$data/train" --out "$data/dev" --out "$data/vox1" --stamp "$data/.done.prepare" -- \
    local/prepare_voxceleb.sh --vox1 "$vox1" --vox2 "$vox2" --trials "$lists" --musan="$musan" --rirs="$rirs" \
    --counts="$counts" --dev-speakers "$dev_speakers" --data "$data"
  validate_data train dev vox1
  if [[ $speed_perturb == true ]]; then perturb_speed train train_sp; fi
fi

if stage 2 "features"; then
  copy_waveforms "$([[ $speed_perturb == true ]] && echo train_sp || echo train)" train_wav
  make_features train dev vox1
  choose_cohort
fi

if stage 3 "teacher"; then
  train_teachers train_wav
fi

if stage 4 "distillation"; then
  distill_students train_wav
fi

if stage 5 "sensitivity, bit allocation, quantization, finetuning, export"; then
  measure_sensitivity train_wav
  allocate_bits
  select_blocks
  quantize_systems train_wav
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
  search_settings train_wav
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
