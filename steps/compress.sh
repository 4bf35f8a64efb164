#!/usr/bin/env bash
# Compresses a trained network to a given number of megabytes, in one command: a published checkpoint of another toolkit,
# or a model folder made here. Imports the network, measures the sensitivity of each layer, allocates bits to the layers
# so that the packed file has the size, and then quantizes step by step:
#
#   rounded     every layer is rounded to its bits
#   calibrated  codes and levels are chosen for the least error of the outputs of layers, on some speech
#   finetuned   the quantized network learns the embeddings that the float network gives for the recordings of --data;
#               their speakers need not be known
#
# Each result is packed and scored on the trials, so the report says what each step gains.
#
#   bash steps/compress.sh --model embedding_model.ckpt --from speechbrain --target-mb 2 \
#     --data data/train --trials data/test/trials
#
# Makes <out>/quantized/model.svq, the file of the last step, <out>/report.md and report.json, and a folder for each
# step; <out>/float is the imported network. A finished piece of work is skipped; a killed run goes on where it was. Run
# it at the top of the checkout or in the folder of a recipe.
set -euo pipefail
out=           # folder for everything that is made; empty: exp/compressed/<name of the model>
max_probes=40  # probes of the sensitivity of a layer, at most
top_n=300      # cohort speakers that asnorm keeps for each embedding
num_gpus=0     # GPUs to finetune on; sensitivities and embeddings use one of them; 0: the CPU
nj=2           # parallel jobs of embedding extraction
stage=1        # first stage to run
stop_stage=8   # last stage to run
dry_run=false  # say what would be done, touch nothing
force=false    # redo the chosen stages, finished or not
_forward_to=("svq.bin.compress check" "svq.bin.compress report only norm bootstrap")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
if [[ -e cmd.sh ]]; then . ./cmd.sh; else . "$SVQ_ROOT/cmd.sh"; fi  # a recipe's own, else that of all

refuse() { echo "compress.sh: $1" >&2; exit 2; }
(($# == 0)) || refuse "takes options only, not '$1' (--help lists them)"
[[ $norm == none || -n $cohort ]] || refuse "--norm $norm needs --cohort"
((nj >= 1)) || refuse "--nj must be at least 1"
data=${data%/} model=${model%/} trials_data=${trials_data%/}
[[ -e $model ]] || { echo "compress.sh: $model: no such file" >&2; exit 1; }
[[ -e $trials ]] || { echo "compress.sh: $trials: no such file" >&2; exit 1; }
if [[ -z $trials_data ]]; then trials_data=$(dirname -- "$trials"); fi
if [[ -z $out ]]; then out=${model##*/} out=exp/compressed/${out%.*}; fi
device=cpu
if ((num_gpus)); then device=cuda; fi

# Defaults are written out here, because a stamp knows of a command only the words on it.
source_is=(--model "$model" --from "$from")
amount=(--data "$data" --steps "$steps" --epochs "$epochs" --batch-size "$batch_size")
choices=("${amount[@]}" --target-mb "$target_mb" --calibrate "$calibrate" --calibration-utts "$calibration_utts"
  --method "$method" --candidates "$candidates" --lr "$lr" --crop-seconds "$crop_seconds" --margin "$margin"
  --seed "$seed" --num-threads "$num_threads")
# Everything that is given is checked before anything is made.
plan=$(python3 -m svq.bin.compress check "${to_check[@]}")
read -r finetune objective head models per_channel <<< "$plan"

exp=$out
. utils/stages.sh

float=$out/float quantized=$out/quantized bits=$out/bits.tsv
list=$out/data/trials speech=$out/data/speech cohort_data=$out/data/cohort
networks=(rounded)
if [[ $calibrate == true ]]; then networks+=(calibrated); fi
if [[ $finetune != none ]]; then networks+=(finetuned); fi
last=$out/${networks[-1]} before=$float          # before: where finetuning starts
if [[ $calibrate == true ]]; then before=$out/calibrated; fi
model_in=(--in "$model")
if [[ -d $model ]]; then model_in=(--in "$model/model.safetensors" --in "$model/config.yaml"); fi

if stage 1 "the float network"; then
  if [[ $from == svq ]]; then
    once "${model_in[@]}" --out "$float/model.safetensors" --out "$float/config.yaml" -- \
      python3 -m svq.bin.compress take --model "$model" --head "$head" --out "$float"
  else
    once "${model_in[@]}" --out "$float/model.safetensors" --out "$float/config.yaml" -- \
      python3 -m svq.bin.import_checkpoint "$model" --from "$from" --rate "$rate" \
      --num-mels "$num_mels" --pooling "$pooling" --front-end "$front_end" --out "$float"
  fi
fi

if stage 2 "settings and data directories"; then
  configs=()
  for name in "${networks[@]}"; do configs+=(--out "$out/conf/$name.yaml"); done
  once --in "$data/utt2spk" "${configs[@]}" -- \
    python3 -m svq.bin.compress settings "${choices[@]}" --finetune "$finetune" --per-channel "$per_channel" \
    --out "$out"
  durations=()
  if [[ -e $data/utt2dur ]]; then durations=(--in "$data/utt2dur"); fi
  once --in "$data/wav.scp" --in "$data/utt2spk" ${durations[@]+"${durations[@]}"} --out "$speech/utt2dur" \
    --out "$speech/wav.scp" --out "$speech/utt2spk" -- \
    python3 -m svq.bin.compress speech "${amount[@]}" --speakers "$([[ $head == none ]] && echo false || echo true)" \
    --out "$speech"
  once --in "$trials" --in "$trials_data/wav.scp" --out "$list/wav.scp" --out "$list/utt2spk" -- \
    python3 -m svq.bin.compress tested --trials "$trials" --data "$trials_data" \
    --out "$list"
  if [[ -n $cohort ]]; then
    once --in "$cohort/wav.scp" --in "$cohort/utt2spk" --out "$cohort_data/wav.scp" --out "$cohort_data/utt2spk" \
      --out "$cohort_data/spk2utt" -- \
      python3 -m svq.bin.compress speech --data "$cohort" --out "$cohort_data" --cohort true
  fi
fi

if stage 3 "sensitivity"; then
  if [[ $head == fitted ]]; then
    once steps/fit_head.sh --cmd "$cuda_cmd" --num-threads "$num_threads" --device "$device" --input wav "$speech" "$float"
  fi
  options=(--objective "$objective")
  if [[ $objective == labels ]]; then options+=(--margin "$margin" --scale 32); fi
  once steps/sensitivity.sh --cmd "$cuda_cmd" --device "$device" --num-threads "$num_threads" --input wav \
    --crop-seconds "$crop_seconds" --max-probes "$max_probes" \
    --seed "$seed" "${options[@]}" "$speech" "$float"
fi

if stage 4 "bits of every layer"; then
  once steps/allocate.sh --cmd "$train_cmd" --frontier-points 0 "$out/conf/rounded.yaml" "$float" "$bits"
fi

if stage 5 "quantization, step by step: ${networks[*]}"; then
  for name in "${networks[@]}"; do
    config=$out/conf/$name.yaml
    case $name in
      rounded)
        once steps/quantize.sh --cmd "$train_cmd" --bits "$bits" "$config" "$float" "$out/$name" ;;
      calibrated)
        once steps/quantize.sh --cmd "$cuda_cmd" --device "$device" --mem 16G --bits "$bits" --data "$speech" --input wav \
          "$config" "$float" "$out/$name" ;;
      finetuned)
        once steps/train.sh --cmd "$cuda_cmd" --num-gpus "$num_gpus" --num-threads "$num_threads" --init "$before" \
          --bits "$bits" --teacher "$float" "$config" "$speech" "$out/$name" ;;
    esac
  done
fi

if stage 6 "packing"; then
  once steps/pack.sh --cmd "$train_cmd" "$float"
  for name in "${networks[@]}"; do once steps/pack.sh --cmd "$train_cmd" --packed true "$out/$name"; done
  once --in "$last/model.svq" --in "$last/summary.json" --out "$quantized/model.svq" \
    --out "$quantized/summary.json" -- \
    python3 -m svq.bin.compress finish --step "$last" --out "$quantized" --target-mb "$target_mb"
fi

if stage 7 "embeddings and scores"; then
  for name in float "${networks[@]}"; do
    side=$out/$name file=$out/$name sets=trials options=()
    if [[ $name != float ]]; then file+=/model.svq; fi
    if [[ -n $cohort ]]; then sets+=" cohort" options=(--cohort "$side/embeddings/cohort"); fi
    if [[ $models == true ]]; then options+=(--enroll-spk2utt "$trials_data/enroll.spk2utt"); fi
    once steps/extract.sh --cmd "$extract_cmd" --nj "$nj" --input wav --device "$device" --sets "$sets" \
      "$out/data" "$file" "$side/embeddings"
    if [[ -n $cohort ]]; then
      once steps/speaker_means.sh --cmd "$train_cmd" "$cohort_data" "$side/embeddings/cohort"
    fi
    once steps/score.sh --cmd "$train_cmd" --norm "$norm" --top-n "$top_n" --threads "$num_threads" \
      ${options[@]+"${options[@]}"} "$trials" "$side/embeddings/trials" "$side/scores"
  done
fi

if stage 8 "what each step bought"; then
  given=(--in "$trials" --in "$bits")
  if [[ -e $trials_data/utt2spk ]]; then given+=(--in "$trials_data/utt2spk"); fi
  for name in float "${networks[@]}"; do
    given+=(--in "$out/$name/summary.json" --in "$out/$name/scores/cosine_$norm.score"
      --in "$out/$name/embeddings/trials/embedding.ark")
    if [[ $name != float ]]; then given+=(--in "$out/conf/$name.yaml"); fi
  done
  once "${given[@]}" --out "$out/report.md" --out "$out/report.json" -- \
    python3 -m svq.bin.compress report "${source_is[@]}" --folder "$out" --steps "${networks[*]}" --trials "$trials" \
    --data "$trials_data" --speech "$data" --norm "$norm" --target-mb "$target_mb" --bootstrap "$bootstrap"
fi
stages_done

took() {                                          # <name> <file>: prints the seconds that the file took, by its stamp
  local key value start=0 end=0 stamp=${2%/*}/.done.${2##*/}
  [[ -e $stamp ]] || return 0
  while IFS=$'\t' read -r key value _; do
    case $key in
      started) start=$(date -d "$value" +%s) ;;
      ended) end=$(date -d "$value" +%s) ;;
    esac
  done < "$stamp"
  printf ' %s %d s' "$1" $((end - start))
}
if [[ $dry_run != true ]] && ((stop_stage >= 8)); then
  printf 'took:'
  took sensitivity "$float/sensitivity.tsv"
  for name in "${networks[@]}"; do took "$name" "$out/$name/model.safetensors"; done
  printf '\n%s is described in %s\n' "$quantized/model.svq" "$out/report.md"
fi
