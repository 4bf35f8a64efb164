#!/usr/bin/env bash
# CN-Celeb: tests the systems of another recipe out of their domain, on Mandarin in eleven genres from singing to drama,
# with models of several recordings each. Trains nothing: networks, cohort, mean and calibration are those of $from.
# Can also test on CommonBench and VoxTube, each with many languages.
#
#   bash ../voxceleb/run.sh ...      # first
#   bash run.sh --cnceleb1 /corpora/CN-Celeb_flac
#   bash run.sh --cnceleb1 /corpora/CN-Celeb_flac --commonbench /corpora/cv-corpus-16.1 --comparisons /corpora/commonbench.csv \
#     --voxtube /corpora/voxtube --trials "dev/trials cnceleb/trials commonbench/trials voxtube/trials"
#
# Works in the folder of the other recipe, with its data and exp, and adds data/cnceleb and so on as test sets. Skips what
# that recipe has made, if --backends, --norms, --cohort-*, --top-n and --lda-dim are the same as there.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"   # sh run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cnceleb1=corpus/CN-Celeb_flac  # CN-Celeb1: data, dev and eval
counts=local/cnceleb.counts    # numbers of models, recordings and trials that must be found; empty: no check
commonbench=                   # Common Voice, with the recordings of CommonBench: commonbench/trials in --trials; empty: none
comparisons=                   # list of comparisons of CommonBench
voxtube=                       # VoxTube: voxtube/trials in --trials; empty: none
voxtube_meta=                  # folder of language_gender_meta.csv of VoxTube; empty: no genders and languages
voxtube_speakers=400           # speakers to draw from VoxTube; 0: all
from=../voxceleb               # recipe whose systems are tested
systems="teacher student teacher_float teacher_kmqat4 teacher_mixed2 teacher_adaptive student_kmqat4"  # systems of $from to test
models=                        # systems that are files, as NAME=FILE.onnx; exp/NAME/NAME.onnx is one without it; empty: none
trials="dev/trials cnceleb/trials cnceleb/trials_concat vox1/trials_O"  # trial lists; the first one calibrates
backends="cosine plda"         # scoring back ends
norms="none asnorm"            # score normalizations
stage=0                        # first stage to run; numbered as in every recipe, but there is no 3 to 5, 10, 12 and 13
stop_stage=15                  # last stage to run
dry_run=false                  # say what would be done, touch nothing
force=false                    # redo the chosen stages, finished or not
nj=16                          # parallel jobs of features
extract_nj=8                   # parallel jobs of embedding extraction
num_gpus=0                     # above 0: embeddings and cascades are computed on GPUs, one a job; 0: the CPU
systems_nj=1                   # systems to work on at a time
int8_runtime=openvino          # runtime of systems NAME-int8: openvino or onnxruntime (utils/setup.sh --extras deploy)
analysis=teacher               # float systems to analyse (stage 14): what quantizing does to their scores; empty: none
ladders=teacher_adaptive:teacher_kmqat4:teacher  # cascades (stage 15), each a:b:c from the cheapest system on; empty: none
cascade_limits=eer_loss=0.05   # what a cascade may lose or cost on the first list (steps/cascade.sh)
cascade_run=false              # true: also run cascades, and each rung alone, one trial at a time, and measure seconds
lda_dim=256                    # dimensions kept before PLDA
top_n=300                      # cohort speakers in AS-norm
cohort_speakers=0              # training speakers in the cohort, drawn; 0: all
cohort_per_spk=0               # utterances of each of them in the cohort; 0: all
cohort_means=true              # without the back end plda, the cohort's means are stored, and none of its embeddings
data=data                      # data directories of $from; relative to the folder of $from
exp=exp                        # systems of $from; relative to the folder of $from
table=                         # name of a table (local/table.sh): report, table.md and table.tex go to $report/$table; empty: none
report=exp                     # folder of results.tsv and report.html; relative to this folder
title="CN-Celeb"               # title of the report
. utils/parse_options.sh
. ./path.sh
from_elsewhere=true             # networks need no settings here
for option in cnceleb1 commonbench comparisons voxtube voxtube_meta counts report; do
  if [[ -n ${!option} && ${!option} != /* ]]; then printf -v "$option" %s "$PWD/${!option}"; fi
done
if [[ -n $table ]]; then report+=/$table; fi
[[ -d $from/steps ]] || { echo "run.sh: $from is not the folder of a recipe; --from takes one" >&2; exit 1; }
cd "$from"
. ./cmd.sh
. utils/stages.sh
. steps/systems.sh
far_sets="cnceleb${commonbench:+ commonbench}${voxtube:+ voxtube}"

if stage 0 "corpora"; then
  if [[ -n $commonbench ]]; then need "${comparisons:-the list of CommonBench}" "--comparisons names it"; fi
  if [[ -n $voxtube ]]; then need "$voxtube" "--voxtube takes the folder of VoxTube"; fi
  once --out "$cnceleb1" --stamp "$exp/.done.corpus_cnceleb" -- \
    local/prepare_cnceleb.sh --cnceleb1 "$cnceleb1" --counts="$counts" --check-only true
fi

if stage 1 "data directory"; then
  once --in "$cnceleb1/eval/lists/trials.lst" --in "$cnceleb1/eval/lists/enroll.map" \
    --out "$data/cnceleb" --out "$data/cnceleb/enroll.spk2utt" --stamp "$data/cnceleb/.done.prepare" -- \
    local/prepare_cnceleb.sh --cnceleb1 "$cnceleb1" --counts="$counts" --data "$data"
  if [[ -n $commonbench ]]; then
    once --in "$commonbench" --in "$comparisons" --out "$data/commonbench" --stamp "$data/commonbench/.done.prepare" -- \
      local/prepare_commonbench.sh --corpus "$commonbench" --comparisons "$comparisons" --data "$data/commonbench"
  fi
  if [[ -n $voxtube ]]; then
    once --in "$voxtube" --out "$data/voxtube" --stamp "$data/voxtube/.done.prepare" -- \
      local/prepare_voxtube.sh --corpus "$voxtube" --meta="$voxtube_meta" --speakers "$voxtube_speakers" --data "$data/voxtube"
  fi
  for set in $far_sets; do
    once utils/validate_data_dir.sh --remember true --nj "$nj" "$data/$set"
  done
fi

if stage 2 "features"; then
  for set in $far_sets; do
    once steps/make_fbank.sh --cmd "$train_cmd" --nj "$nj" "$data/$set"
  done
fi

if stage 6 "embeddings"; then
  for set in $sets $cohort; do
    if [[ " $far_sets " != *" $set "* ]]; then need "$data/$set/feats.scp" "$from/run.sh makes it"; fi
  done
  for system in $systems; do
    for file in "${model_file_of[$system]}" "$exp/$system/summary.json"; do
      need "$file" "$from/run.sh makes it, with $system in --systems"
    done
  done
  at_a_time "$systems_nj"
  for system in $systems; do
    once steps/extract.sh --cmd "$extract_cmd" --nj "$extract_nj" --device "${device_of[$system]}" --sets "$sets" \
      "$data" "${model_of[$system]}" "$exp/$system/embeddings"
  done
  all_done
  at_a_time "$systems_nj"
  for system in $systems; do
    if [[ $means_only == true ]]; then
      once steps/extract_means.sh --cmd "$extract_cmd" --nj "$extract_nj" --device "${device_of[$system]}" "$data/$cohort" \
        "${model_of[$system]}" "$exp/$system/embeddings/$cohort"
    else
      once steps/speaker_means.sh --cmd "$train_cmd" "$data/$cohort" "$exp/$system/embeddings/$cohort"
    fi
  done
  all_done
fi

if stage 7 "scores"; then
  if [[ " $backends " == *" plda "* ]]; then
    at_a_time "$systems_nj"
    for system in $systems; do
      once steps/train_plda.sh --cmd "$train_cmd" --lda-dim "$lda_dim" "$data/$cohort" "$exp/$system/embeddings/$cohort" \
        "$exp/$system/plda.safetensors"
    done
    all_done
  fi
  at_a_time "$systems_nj"
  for system in $systems; do
    once steps/score.sh --cmd "$train_cmd" --lists "$trials" --backends "$backends" --plda "$exp/$system/plda.safetensors" \
      --cohort "$exp/$system/embeddings/$cohort" "$data" "$exp/$system/embeddings" "$exp/$system/scores"
  done
  all_done
fi

if stage 8 "score normalization" && [[ $norms != none ]]; then
  at_a_time "$systems_nj"
  for system in $systems; do
    once steps/score_norm.sh --cmd "$train_cmd" --lists "$trials" --backends "$backends" --norms "$norms" --top-n "$top_n" \
      --plda "$exp/$system/plda.safetensors" --cohort "$exp/$system/embeddings/$cohort" \
      "$data" "$exp/$system/embeddings" "$exp/$system/scores"
  done
  all_done
fi

if stage 9 "calibration on the first list"; then
  at_a_time "$systems_nj"
  for system in $systems; do
    once steps/calibrate.sh --cmd "$train_cmd" --lists "$trials" --backends "$backends" --norms "$norms" \
      --dev "${list_name_of[$dev_list]}" --mean "$exp/$system/embeddings/$cohort/mean.vec" \
      "$data/$dev_list" "$exp/$system/scores"
  done
  all_done
fi

if stage 11 "tables and report"; then
  once steps/report.sh --cmd "$train_cmd" --out "$report" --paper-table "$table" --systems "$systems" --trials "$trials" --backends "$backends" \
    --norms "$norms" --title "$title" "$data" "$exp"
fi

if stage 14 "why bits cost what they cost: scores, by genre too"; then
  for net in $analysed; do
    read -ra others <<< "${compared_of[$net]}"
    once steps/score_analysis.sh --cmd "$train_cmd" --exp "$exp" --data "$data" --title "$title: scores of $net" \
      "$trials" "$report/analysis/$net/scores" "${control_of[$net]}" "${others[@]}"
  done
fi

if stage 15 "cascades"; then
  live=
  if [[ $cascade_run == true && -n $ladders ]]; then  # as a service is used: every utterance in one trial
    live=$data/$test_set/trials_live same_gender=false
    if [[ -e $data/$test_set/spk2gender ]]; then same_gender=true; fi
    once --in "$data/$test_set/utt2spk" --maybe "$data/$test_set/spk2gender" --out "$live" -- \
      utils/make_trials.sh --name live --once true --max-tests 2000 --same-gender "$same_gender" "$data/$test_set"
  fi
  for ladder in $ladders; do
    cascade=$report/cascade/${ladder//:/-}
    read -ra rungs <<< "${rungs_of[$ladder]}"
    once steps/make_ladder.sh --exp "$exp" --cohort "$cohort" --models "$models" "$cascade/systems.yaml" "${rungs[@]}"
    once steps/cascade.sh --cmd "$cuda_cmd" --device "$device" --limits "$cascade_limits" --run "$cascade_run" --run-trials "$live" \
      --title "$title: cascade of ${ladder//:/, }" "$cascade/systems.yaml" "$data/$dev_list" "$cascade" "${test_lists[@]/#/$data/}"
  done
fi
stages_done
