#!/usr/bin/env bash
# speechocean762 (OpenSLR 101): English read by Mandarin speakers, half of them children.
# Takes recordings to a teacher, a distilled student and their quantized versions of 4 bits to 1, with a report.
#
#   bash run.sh --corpus /corpora/speechocean762                  everything
#   bash run.sh --corpus /corpora/speechocean762 --stage 5        stage 5 and what follows
#   bash run.sh --dry-run                                         what would be done
#
# A finished piece of work is skipped; a killed run goes on where it was.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"   # sh run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus=corpus/speechocean762  # folder of the corpus, official layout; with --download true a missing one is put there
download=false                # whether stage 0 may download the corpus (520 MB)
extra_corpus=                 # LibriSpeech-layout folder: more training speakers, cut into 4 s pieces
noise=                        # folder of noise recordings for augmentation
rir=                          # folder of room impulse responses for augmentation
malayalam=                    # folder of the Malayalam Speech Corpus: a test out of domain, malayalam/trials in --trials
systems="teacher student teacher_float teacher_kmqat4 teacher_mixed2 teacher_adaptive student_kmqat4"  # systems to train, score and report
models=                       # systems that are files, as NAME=FILE.onnx; exp/NAME/NAME.onnx is one without it; empty: none
trials="dev/trials test/trials test/trials_all"      # trial lists; the first one calibrates
backends="cosine plda"        # scoring back ends
norms="none asnorm"           # score normalizations
stage=0                       # first stage to run
stop_stage=15                 # last stage to run
dry_run=false                 # say what would be done, touch nothing
force=false                   # redo the chosen stages, finished or not
nj=2                          # parallel jobs of data preparation and features
extract_nj=2                  # parallel jobs of embedding extraction
num_gpus=0                    # GPUs to train on; above 0 all else that computes networks takes one a job; 0: the CPU
systems_nj=2                  # systems to work on at a time, in stages 3 to 10 and 14
int8_runtime=openvino         # runtime of systems NAME-int8: openvino or onnxruntime (utils/setup.sh --extras deploy)
search=                       # float systems to search finetuning settings for (stage 13); empty: none
search_row=kmqat4             # row of quant.yaml that the search starts from
search_nj=1                   # workers that share a search
analysis=teacher              # float systems to analyse (stage 14): what quantizing does to their scores and layers; empty: none
analysis_rows=kmqat4          # rows of quant.yaml whose layers are analysed in stage 14
analysis_utts=0               # utterances of the first list to analyse layers with; 0: all
ladders=teacher_adaptive:teacher_kmqat4:teacher  # cascades (stage 15), each a:b:c from the cheapest system on; empty: none
cascade_limits=eer_loss=0.05  # what a cascade may lose or cost on the first list (steps/cascade.sh)
cascade_run=false             # true: also run cascades, and each rung alone, one trial at a time, and measure seconds
max_probes=200                # probes of a Hessian trace, at most (stage 5)
speed_perturb=true            # add copies at 0.9 and 1.1 times the speed, as new speakers
lda_dim=128                   # dimensions kept before PLDA
top_n=100                     # cohort speakers in AS-norm
cohort_per_spk=0              # utterances of each training speaker in the cohort (AS-norm, mean, PLDA); 0: all
conf=conf                     # folder of the settings of systems
data=data                     # data directories
exp=exp                       # everything that is computed
table=                        # name of a table (local/table.sh): report, table.md and table.tex go to $exp/$table; empty: none
report=                       # folder of results.tsv and report.html; empty: $exp/$table
title="speechocean762"        # title of the report
. utils/parse_options.sh
. ./path.sh
. ./cmd.sh
export SVQ_ALLOW_PIPES=${SVQ_ALLOW_PIPES:-true}   # stage 1 writes lists whose lines run SoX and ffmpeg; only those are read
. utils/stages.sh
. steps/systems.sh

if stage 0 "corpora"; then
  if [[ $download == true ]]; then
    if [[ ${corpus##*/} != speechocean762 ]]; then
      echo "run.sh: --download true makes a folder speechocean762: end --corpus in that name" >&2
      exit 2
    fi
    once --dear --out "$corpus/train/wav.scp" --out "$corpus/test/wav.scp" -- \
      local/download_speechocean762.sh --folder "$(dirname "$corpus")"
  fi
  for part in train test; do
    need "$corpus/$part/wav.scp" "get https://www.openslr.org/101/ and name its folder by --corpus, or say --download true"
  done
  if [[ -n $malayalam ]]; then need "$malayalam/metadata.tsv" "--malayalam takes the folder of the Malayalam Speech Corpus"; fi
fi

if stage 1 "data directories"; then
  once --in "$corpus/train/wav.scp" --in "$corpus/test/wav.scp" \
    --out "$data/train" --out "$data/dev" --out "$data/test" --stamp "$data/.done.prepare" -- \
    local/prepare_speechocean762.sh --corpus "$corpus" --extra-corpus="$extra_corpus" \
    --noise="$noise" --rir="$rir" --data "$data"
  if [[ -n $malayalam ]]; then
    once --in "$malayalam/metadata.tsv" --out "$data/malayalam/wav.scp" --out "$data/malayalam/utt2spk" --out "$data/malayalam/trials" -- \
      local/prepare_msc_malayalam.sh --corpus "$malayalam" --data "$data/malayalam"
  fi
  once utils/validate_data_dir.sh --remember true --nj "$nj" "$data/train" "$data/dev" "$data/test" ${malayalam:+"$data/malayalam"}
  if [[ $speed_perturb == true ]]; then
    once utils/perturb_data_dir_speed_3way.sh "$data/train" "$data/train_sp"
  fi
  need_lists
fi

if stage 2 "features"; then
  once utils/copy_wav.sh --cmd "$train_cmd" --nj "$nj" "$data/$([[ $speed_perturb == true ]] && echo train_sp || echo train)" \
    "$data/train_wav"
  for set in train dev test ${malayalam:+malayalam}; do
    once steps/make_fbank.sh --cmd "$train_cmd" --nj "$nj" "$data/$set"
  done
  if [[ $cohort != train ]]; then
    once --in "$data/train/feats.scp" --in "$data/train/utt2spk" --out "$data/$cohort/feats.scp" --out "$data/$cohort/utt2spk" \
      --out "$data/$cohort/spk2utt" --also "$data/$cohort" -- \
      utils/subset_data_dir.sh --per-spk "$data/train" "$cohort_per_spk" "$data/$cohort"
  fi
fi

find_augmentation
if stage 3 "teachers: networks trained from scratch"; then
  at_a_time "$systems_nj"
  for system in $teachers; do
    once steps/train.sh --cmd "$cuda_cmd" --num-gpus "$num_gpus" --seed "${seed_of[$system]}" "${augmentation[@]}" \
      "${config_of[$system]}" "$data/train_wav" "$exp/$system"
  done
  all_done
fi

if stage 4 "distillation: students of a teacher"; then
  for teacher in $dictionaries; do
    once steps/train_aggregation.sh --cmd "$cuda_cmd" --num-gpus "$num_gpus" "${augmentation[@]}" "$conf/aggregation.yaml" \
      "$data/train_wav" "$exp/$teacher" "$exp/$teacher/aggregation"
  done
  for teacher in $level_teachers; do
    once steps/teacher_embeddings.sh --cmd "$extract_cmd" --nj "$extract_nj" --device "$device" --levels "${levels_of[$teacher]}" \
      --aggregation "${dictionary_of[$teacher]}" "$data/train_wav" "$exp/$teacher" "$exp/$teacher/levels/train_wav"
  done
  for teacher in $file_teachers; do
    once steps/extract.sh --cmd "$extract_cmd" --nj "$extract_nj" --device "${device_of[$teacher]}" --sets "train_wav" \
      "$data" "${model_of[$teacher]}" "$exp/$teacher/embeddings"
  done
  at_a_time "$systems_nj"
  for system in $students; do
    teacher=${teacher_of[$system]} given=${given_of[$system]}
    once steps/train.sh --cmd "$cuda_cmd" --num-gpus "$num_gpus" --seed "${seed_of[$system]}" "${augmentation[@]}" \
      --teacher "${teacher:+$exp/$teacher}" --targets "${levels_of[$system]:+$exp/$teacher/levels/train_wav}" \
      --targets-ark "${given:+$exp/$given/embeddings/train_wav/embedding.scp}" \
      "${config_of[$system]}" "$data/train_wav" "$exp/$system"
  done
  all_done
fi

if stage 5 "bits by layer, quantization, finetuning, export"; then
  for net in $sensitive; do
    once steps/sensitivity.sh --cmd "$cuda_cmd" --device "$device" --max-probes "$max_probes" "$data/train_wav" "$exp/$net"
  done
  at_a_time "$systems_nj"
  for system in $allocated; do
    once steps/allocate.sh --cmd "$train_cmd" "${config_of[$system]}" "$exp/${net_of[$system]}" "$exp/$system/bits.tsv"
  done
  for blocks in $block_tables; do   # NETWORK:ROW, one for all systems of a row
    once steps/block_sensitivity.sh --cmd "$cuda_cmd" --device "$device" --trials "$data/$dev_list" --ptq-data "${speech_of[$blocks]}" \
      "${config_of[$blocks]}" "$data/$dev_set" "$exp/${net_of[$blocks]}" "${blocks_of[$blocks]}"
  done
  all_done
  for system in $selected; do
    once steps/select.sh --cmd "$train_cmd" --config "${config_of[$system]}" "${blocks_of[$system]:-$exp/${net_of[$system]}}" \
      "$exp/$system/bits.tsv"
  done
  at_a_time "$systems_nj"
  for system in $rounded; do
    once steps/quantize.sh --cmd "$cuda_cmd" --device "$device" --bits "${bits_of[$system]}" --data "${speech_of[$system]}" \
      "${config_of[$system]}" "$exp/${net_of[$system]}" "$exp/$system"
  done
  all_done
  at_a_time "$systems_nj"
  for system in $finetuned; do
    teacher=${teacher_of[$system]}
    once steps/train.sh --cmd "$cuda_cmd" --num-gpus "$num_gpus" --seed "${seed_of[$system]}" --bits "${bits_of[$system]}" \
      --init "$exp/${start_of[$system]}" --teacher "${teacher:+$exp/$teacher}" \
      "${config_of[$system]}" "$data/train_wav" "$exp/$system"
  done
  all_done
  at_a_time "$systems_nj"
  for system in $members; do
    once steps/at_precision.sh --cmd "$train_cmd" "$exp/${whole_of[$system]}" "${member_bits_of[$system]}"
  done
  all_done
  at_a_time "$systems_nj"
  for system in $exported; do
    once steps/export.sh --cmd "$train_cmd" --int8 true --range-data "$data/$cohort" \
      --summary "$exp/$system/summary.json" "$exp/${exported_of[$system]}" "${model_of[$system]}"
  done
  all_done
fi

if stage 6 "embeddings"; then
  at_a_time "$systems_nj"
  for system in $systems; do
    once steps/extract.sh --cmd "$extract_cmd" --nj "$extract_nj" --device "${device_of[$system]}" --sets "$sets" \
      "$data" "${model_of[$system]}" "$exp/$system/embeddings"
  done
  all_done
  at_a_time "$systems_nj"
  for system in $systems; do
    once steps/speaker_means.sh --cmd "$train_cmd" "$data/$cohort" "$exp/$system/embeddings/$cohort"
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

if stage 10 "packing"; then
  at_a_time "$systems_nj"
  for system in $packed; do
    once steps/pack.sh --cmd "$train_cmd" --calibration "${calibration_of[$system]}" --file "${file_of[$system]}" "$exp/$system"
  done
  all_done
fi

if stage 11 "tables and report"; then
  once steps/report.sh --cmd "$train_cmd" --out "$report" --paper-table "$table" --systems "$systems" --trials "$trials" --backends "$backends" \
    --norms "$norms" --title "$title" "$data" "$exp"
fi

if stage 12 "figures and tables on quantization"; then
  for net in $quantized_parents; do
    once steps/quant_report.sh --cmd "$train_cmd" --results "$report/results.tsv" --out "$report/quantization/$net" --title "$title: $net" "$exp" "$net"
  done
fi

if stage 13 "search of settings, identification, trade-off"; then
  for net in $searched; do
    once steps/search.sh --cmd "$cuda_cmd" --nj "$search_nj" --num-gpus "$((num_gpus > 0))" --restart true \
      --trials "$data/$dev_list" --teacher "${search_teacher_of[$net]:+$exp/$net}" "${augmentation[@]}" "$conf/search.yaml" \
      "${finetuning_of[$net]}:$search_row" "$data/train_wav" "$exp/$net" "$data/$dev_set" "$exp/$net/search"
    models=("$net=$exp/$net")
    for system in ${traded_of[$net]}; do models+=("$system=${model_of[$system]}"); done
    once steps/tradeoff.sh --cmd "$train_cmd" --study "$exp/$net/search/study.db" --trials "$data/$test_list" \
      --title "$title: settings of finetuning $net" "$data/$test_set" "$exp/$net/search/report" \
      "${models[@]}" "best=$exp/$net/search/best"
  done
fi

if stage 14 "why bits cost what they cost: scores, layers"; then
  at_a_time "$systems_nj"
  for net in $layers_analysed; do
    for row in $analysis_rows; do
      layers=$report/analysis/$net/layers_$row
      once steps/layer_analysis.sh --cmd "$cuda_cmd" --device "$device" --max-utts "$analysis_utts" --trials "$data/$dev_list" \
        --title "$title: layers of $net, $row without finetuning" --model "$exp/$net" --config "${finetuning_of[$net]}:$row" \
        "$data/$dev_set" "$layers-ptq"
      if [[ " $systems " == *" ${net}_$row "* ]]; then
        once steps/layer_analysis.sh --cmd "$cuda_cmd" --device "$device" --max-utts "$analysis_utts" --trials "$data/$dev_list" \
          --title "$title: layers of ${net}_$row" --model "$exp/${control_of[$net]}" --quantized "$exp/${net}_$row" \
          --norms-data "$data/$cohort" "$data/$dev_set" "$layers"
      fi
    done
  done
  for net in $analysed; do
    read -ra others <<< "${compared_of[$net]}"
    once steps/score_analysis.sh --cmd "$train_cmd" --exp "$exp" --data "$data" --title "$title: scores of $net" \
      "$trials" "$report/analysis/$net/scores" "${control_of[$net]}" "${others[@]}"
  done
  all_done
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
