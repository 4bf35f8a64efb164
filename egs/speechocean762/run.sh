#!/usr/bin/env bash
# speechocean762 (OpenSLR 101): real read speech of Mandarin speakers of English, half of them children.
# From recordings to a teacher, a distilled student and their quantized versions of 4 bits to 1, with a report.
#
#   bash run.sh --corpus /corpora/speechocean762                  everything
#   bash run.sh --corpus /corpora/speechocean762 --stage 5        stage 5 and what follows
#   bash run.sh --dry-run                                         what would be done
#
# A finished piece of work is skipped; a killed run goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus=corpus/speechocean762  # official layout; downloaded to there when it is missing and --download true
download=false                # whether stage 0 may download the corpus (520 MB)
extra_corpus=                 # LibriSpeech-layout folder: more training speakers, cut into 4 s pieces
noise=                        # folder of noise recordings for augmentation
rir=                          # folder of room impulse responses for augmentation
malayalam=                    # Malayalam Speech Corpus: an out-of-domain test, malayalam/trials for --trials
systems="teacher student teacher_kmqat4 teacher_mixed2 teacher_adaptive student_kmqat4"  # what is trained, scored and reported
trials="dev/trials test/trials test/trials_all"      # trial lists; the first one calibrates
backends="cosine plda"        # scoring back ends
norms="none asnorm"           # score normalizations
stage=0                       # first stage to run
stop_stage=15                 # last stage to run
dry_run=false                 # say what would be done, touch nothing
force=false                   # redo the chosen stages, finished or not
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
analysis_utts=0               # utterances of the first list that they are looked into with; 0: all
ladders=teacher_adaptive:teacher_kmqat4:teacher  # cascades (stage 15): systems from the cheapest on, a:b:c; empty: none
cascade_limits=eer_loss=0.05  # what a cascade may lose or cost on the first list (steps/cascade.sh)
cascade_run=false             # also run cascades, and each rung alone, one trial at a time, and measure seconds
max_probes=200                # probes of a Hessian trace, at most (stage 5)
speed_perturb=true            # copies at 0.9 and 1.1 of the speed as new speakers
lda_dim=128                   # dimensions kept before PLDA
top_n=100                     # cohort speakers in AS-norm
cohort_per_spk=0              # utterances of each training speaker in the cohort (AS-norm, mean, PLDA); 0: all
conf=conf                     # folder of the systems' settings
data=data                     # data directories
exp=exp                       # everything that is computed
report=                       # folder of results.tsv and report.html; empty: $exp
title="speechocean762"        # the report's title
. utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. utils/stages.sh
. steps/recipe.sh

if stage 0 "corpora"; then
  if [[ $download == true ]]; then
    once --out "$corpus/train/wav.scp" -- local/download_speechocean762.sh "$(dirname "$corpus")"
  fi
fi

if stage 1 "data directories"; then
  once --in "0:$corpus/train/wav.scp" --in "0:$corpus/test/wav.scp" \
    --out "$data/train" --out "$data/dev" --out "$data/test" --stamp "$data/.done.prepare" -- \
    local/prepare_speechocean762.sh --corpus "$corpus" --extra-corpus="$extra_corpus" \
    --noise="$noise" --rir="$rir" --data "$data"
  if [[ -n $malayalam ]]; then
    once --in "0:$malayalam/metadata.tsv" --out "$data/malayalam/wav.scp" --out "$data/malayalam/trials" -- \
      local/prepare_msc_malayalam.sh --corpus "$malayalam" --data "$data/malayalam"
  fi
  validate_data train dev test ${malayalam:+malayalam}
  if [[ $speed_perturb == true ]]; then perturb_speed train train_sp; fi
fi

if stage 2 "features"; then
  copy_waveforms "$([[ $speed_perturb == true ]] && echo train_sp || echo train)" train_wav
  make_features train dev test ${malayalam:+malayalam}
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
