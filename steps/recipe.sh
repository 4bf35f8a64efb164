# shellcheck shell=bash disable=SC2154  # the variables are options of run.sh
# Sourced by run.sh after utils/stages.sh: the bodies of the stages that are the same in every recipe.
#
# A system's name says what it is. `student` is distilled from `teacher`, `student-NAME-ROW` from NAME as ROW
# says; NAME_ROW, such as teacher_kmqat4, is NAME quantized and finetuned as ROW says; any other is trained from
# scratch. At the end may stand -sN (trained with seed N), of NAME_ROW also -ptq (quantized without finetuning), of one
# whose file holds several precisions also -Nbit (the member of N bits); after all that -int8: the same in INT8
# arithmetic, weights and activations, as $int8_runtime runs it. Its settings are $conf/<system>.yaml, for
# rows also $conf/distill/<row>.yaml and $conf/quant/<row>.yaml; its folder is $exp/<system>.
# A trial list is named by where it lies in $data: test/trials is `test` in the results, test/trials_all is `test_all`.

if [[ $int8_runtime != openvino && $int8_runtime != onnxruntime ]]; then
  echo "run.sh: --int8-runtime is openvino or onnxruntime, not '$int8_runtime'" >&2
  exit 2
fi

# The set whose embeddings are the cohort of AS-norm and give the mean and PLDA.
cohort=train
if [[ $cohort_per_spk != 0 ]]; then cohort=cohort; fi

# The folder of the tables and the report.
report=${report:-$exp}

# is_a KIND SYSTEM, with KIND one of teacher, student, quantized, member, exported
is_a() {
  case $2 in
    *-int8) [[ $1 == exported ]] ;;
    *_*-[0-9]bit) [[ $1 == member ]] ;;
    *_*) [[ $1 == quantized ]] ;;
    student*) [[ $1 == student ]] ;;
    *) [[ $1 == teacher ]] ;;
  esac
}

systems_of() {
  local system
  for system in $systems; do
    if is_a "$1" "$system"; then echo "$system"; fi
  done
}

# The stage that trains a system.
network_stage() {
  if is_a quantized "$1" || is_a member "$1" || is_a exported "$1"; then
    echo 5
  elif is_a student "$1"; then
    echo 4
  else
    echo 3
  fi
}

# The float network that a quantized system comes from: teacher_kmqat4-ptq -> teacher
parent_of() { echo "${1%%_*}"; }

seed_of() {                                       # teacher_kmqat4-s2 -> 2; nothing without a -sN
  if [[ $1 =~ -s([0-9]+)$ ]]; then echo "${BASH_REMATCH[1]}"; fi
}

# What a student is distilled from: student-xvector-narrowBN -> xvector; student -> teacher
teacher_of() {
  local name=${1#student-}
  if [[ $name == "$1" ]]; then echo teacher; else echo "${name%%-*}"; fi
}

# The row of a system, without its seed: teacher_kmqat4-s2 -> kmqat4, student-xvector-narrowBN -> narrowBN.
# student-labels, which has no teacher, is row `labels`.
row_of() {
  local name=${1%-[0-9]bit}
  name=${name%-ptq}
  if [[ -n $(seed_of "$name") ]]; then name=${name%-s*}; fi
  case $name in
    *_*) echo "${name#*_}" ;;
    student-*)
      name=${name#student-}
      if [[ -e $conf/distill/$name.yaml ]]; then echo "$name"; else echo "${name#*-}"; fi ;;
  esac
}

# A system's YAML.
config_of() {
  local name=${1%-ptq} row
  if [[ -n $(seed_of "$name") ]]; then name=${name%-s*}; fi
  row=$(row_of "$1")
  if [[ -z $row || -e $conf/$name.yaml ]]; then
    echo "$conf/$name.yaml"
  else
    echo "$conf/$(is_a quantized "$1" && echo quant || echo distill)/$row.yaml"
  fi
}

# What the YAMLs in config_in say of a part: their lines `KEY: {...}`, the nearest file's first, down to one that drops
# the part with `KEY: null`. Nothing where there is no such part.
part_lines() {                                    # <key>
  local file line
  for file in "${config_in[@]}"; do               # --in FILE --in FILE ...
    if [[ ! -e $file ]]; then continue; fi
    while IFS= read -r line || [[ -n $line ]]; do # the shell's own: many systems ask many times
      if [[ $line != "$1:"* ]]; then continue; fi
      if [[ $line =~ ^$1:\ *null ]]; then return; fi
      printf '%s\n' "$line"
    done < "$file"
  done
}

# The value of a word in such a part: the nearest file's that gives it.
part_value() {                                    # <key> <word>
  local lines
  lines=$(part_lines "$1" | sed -n "s/.*[{ ,]$2: *\([^,} ]*\).*/\1/p")
  echo "${lines%%$'\n'*}"
}

# The same of a system's YAMLs.
part_of() {                                       # <system> <key>
  local config_in
  find_config_inputs "$(config_of "$1")"
  part_lines "$2"
}

# Before a stage relies on it: a part over several lines would be read as if it said nothing.
check_one_line() {                                # <kind> <key>...
  local system key line
  for system in $(systems_of "$1"); do
    for key in "${@:2}"; do
      while IFS= read -r line; do
        if [[ -n $line && $line != *'}'* ]]; then
          echo "run.sh: $(config_of "$system"): write \`$key: {...}\` on one line; the recipe reads it there" >&2
          exit 1
        fi
      done <<< "$(part_of "$system" "$key")"
    done
  done
}

# Whether the bits of a system's layers are to be allocated.
has_allocation() { [[ -n $(part_of "$1" allocate) && -z $(given_bits "$1") ]]; }

# Whether blocks of a system that stay in float are to be chosen; by its row's goal, or by one that needs no measuring.
has_selection() { [[ -n $(part_of "$1" select) && -z $(given_bits "$1") ]]; }
has_preset() {
  local config_in preset
  find_config_inputs "$(config_of "$1")"
  preset=$(part_value select preset)
  [[ -n $preset && $preset != null ]]
}

# What stage 6 runs: a model folder, or the exported file in it.
model_of() {                                      # <system>
  local suffix=onnx
  if [[ $int8_runtime == openvino ]]; then suffix=xml; fi
  if is_a exported "$1"; then echo "$exp/$1/model.$suffix"; else echo "$exp/$1"; fi
}

# The file in it that is made last.
model_file_of() { if is_a exported "$1"; then model_of "$1"; else echo "$exp/$1/model.safetensors"; fi; }

# The float systems whose quantized ones meet a condition: a function of a system's name.
parents_of() {                                    # <condition>
  local system
  for system in $(systems_of quantized); do
    if "$1" "$system"; then parent_of "$system"; fi
  done | sort -u
}

# A YAML and what it builds on, as options of `once`: sets the array `config_in`.
find_config_inputs() {                            # <file>
  local file=$1 base
  config_in=()
  while [[ -n $file && " ${config_in[*]-} " != *" $file "* ]]; do  # a chain that leads back is the worker's to name
    config_in+=(--in "$file")
    base=
    if [[ -e $file ]]; then base=$(sed -n "s/^base: *[\"']\{0,1\}\([^\"' #]*\).*/\1/p" "$file"); fi
    file=${base:+${file%/*}/$base}
  done
}

# The features that a training reads, as options of `once`: sets the array `feats_in`. After find_config_inputs.
find_feature_inputs() {                           # <data-set>
  local file
  feats_in=()
  for file in "${config_in[@]}"; do
    if [[ -e $file ]] && grep -q '^data:.*input: *feats' "$file"; then feats_in=(--in "2:$data/$1/feats.scp"); fi
  done
}

# A table of bits made by hand or elsewhere, beside a system's YAML; nothing where there is none.
given_bits() {                                    # <system>
  local file
  file=$(config_of "$1")
  file=${file%.yaml}.bits.tsv
  if [[ -e $file ]]; then echo "$file"; fi
}

# dev/trials -> dev, test/trials_all -> test_all
list_name() { local file=${1##*/}; echo "${1%/*}${file#trials}"; }

# The sets that trial lists are about, and the cohort: what needs embeddings.
embedding_sets() {
  local list
  { echo "$cohort"; for list in $trials; do echo "${list%/*}"; done; } | sort -u
}

# What says which samples are a set's, as options of `once`: sets the array `recordings_in`.
find_recordings() {                               # <set> [<stage that makes it>]
  local name from=${2:+$2:}
  recordings_in=(--in "$from$data/$1/wav.scp")
  for name in segments reco2file_and_channel; do
    if [[ -e $data/$1/$name ]]; then recordings_in+=(--in "$from$data/$1/$name"); fi
  done
}

# Stage 1: every recording is opened, so that what is wrong with one is said now.
validate_data() {                                 # <set>...
  local set recordings_in
  for set; do
    find_recordings "$set"
    once "${recordings_in[@]}" --in "$data/$set/utt2spk" --stamp "$data/$set/.done.validate" \
      --out "$data/$set/utt2spk" -- utils/validate_data_dir.sh --nj "$nj" "$data/$set"
  done
}

perturb_speed() {                                 # <set-in> <set-out>
  local recordings_in
  find_recordings "$1"
  once "${recordings_in[@]}" --in "$data/$1/utt2spk" --out "$data/$2/wav.scp" --out "$data/$2/utt2spk" -- \
    utils/perturb_data_dir_speed_3way.sh "$data/$1" "$data/$2"
}

# Stage 2: decoded waveforms for training, features for the rest.
copy_waveforms() {                                # <set-in> <set-out>
  local recordings_in
  find_recordings "$1" 1
  once "${recordings_in[@]}" --in "1:$data/$1/utt2spk" --out "$data/$2/wav.scp" --out "$data/$2/utt2spk" -- \
    utils/copy_wav.sh --cmd "$train_cmd" --nj "$nj" "$data/$1" "$data/$2" "$exp/wav"
}

make_features() {                                 # <set>...
  local set recordings_in
  for set; do
    find_recordings "$set" 1
    once "${recordings_in[@]}" --out "$data/$set/feats.scp" --out "$data/$set/utt2num_frames" -- \
      steps/make_fbank.sh --cmd "$train_cmd" --nj "$nj" "$data/$set" "$exp/fbank/log" "$exp/fbank"
  done
}

# The cohort, where it is not all of the training set.
choose_cohort() {
  if [[ $cohort == train ]]; then return; fi
  once --in "2:$data/train/feats.scp" --in "1:$data/train/utt2spk" \
    --out "$data/cohort/feats.scp" --out "$data/cohort/spk2utt" -- \
    utils/subset_data_dir.sh --per-spk "$data/train" "$cohort_per_spk" "$data/cohort"
}

# Stages 3 to 5: networks. Noise and rooms are used where stage 1 has made their directories.
find_augmentation() {                             # sets the array `augmentation`
  local kind
  augmentation=()
  for kind in noise rir; do
    if [[ -d $data/$kind ]]; then augmentation+=("--$kind" "$data/$kind"); fi
  done
}

# Trains a system, from scratch or from what --init and --teacher name, with the seed that its name gives.
train_network() {                                 # <system> <data-set> [once and train.sh options...]
  local system=$1 set=$2 once_options=() train_options=() config config_in feats_in seed
  shift 2
  seed=$(seed_of "$system")
  if [[ -n $seed ]]; then train_options=(--seed "$seed"); fi
  config=$(config_of "$system")
  find_config_inputs "$config"
  find_feature_inputs "$set"
  while (($#)); do
    case $1 in
      --in) once_options+=(--in "$2") ;;
      *) train_options+=("$1" "$2") ;;
    esac
    shift 2
  done
  once "${config_in[@]}" --in "1:$data/$set/utt2spk" --in "1:$data/$set/wav.scp" \
    ${feats_in[@]+"${feats_in[@]}"} ${once_options[@]+"${once_options[@]}"} \
    --out "$exp/$system/model.safetensors" --out "$exp/$system/config.yaml" --neutral num-gpus -- \
    steps/train.sh --cmd "$cuda_cmd" --num-gpus "$num_gpus" ${train_options[@]+"${train_options[@]}"} \
    "$config" "$data/$set" "$exp/$system"
}

train_teachers() {                                # <data-set>
  local system augmentation
  find_augmentation
  at_a_time "$systems_nj"
  for system in $(systems_of teacher); do
    train_network "$system" "$1" ${augmentation[@]+"${augmentation[@]}"}
  done
  all_done
}

# Stage 4: students learn from the teacher as it is computed, or from levels of it that are cached first.
distill_students() {                              # <data-set>
  local system teacher level augmentation options
  check_one_line student distill
  find_augmentation
  cache_levels "$1"
  at_a_time "$systems_nj"
  for system in $(systems_of student); do
    options=()
    if distils "$system"; then
      teacher=$(teacher_of "$system")
      options=(--in "3:$exp/$teacher/model.safetensors" --teacher "$exp/$teacher")
      for level in $(levels_of "$system"); do
        options+=(--in "4:$exp/$teacher/levels/$1/$(level_file "$level").json")
      done
      if [[ -n $(levels_of "$system") ]]; then options+=(--targets "$exp/$teacher/levels/$1"); fi
    fi
    train_network "$system" "$1" ${options[@]+"${options[@]}"} ${augmentation[@]+"${augmentation[@]}"}
  done
  all_done
}

# Whether a student has a teacher: one that is trained with labels only, to compare with, has `distill: null`.
distils() { [[ -n $(part_of "$1" distill) ]]; }

# The teacher's cached levels that a student learns from, as the nearest of its YAMLs on distillation says; nothing for
# one that computes its teacher.
levels_of() {                                     # <student>
  local lines
  lines=$(part_of "$1" distill)
  sed -n 's/.*levels: *\[\([^]]*\)\].*/\1/p' <<< "${lines%%$'\n'*}" | tr -d ,
}

level_file() { echo "${1//:/-}"; }                # a level's name as that of a file

# The levels of every teacher that its students learn from, in one pass of it, and the dictionary that makes
# those of pooling lde. Levels that are there already stay.
cache_levels() {                                  # <data-set>
  local teacher system level levels dir ins outs options config_in config=$conf/distill/aggregation.yaml
  for teacher in $(for system in $(systems_of student); do teacher_of "$system"; done | sort -u); do
    dir=$exp/$teacher/levels/$1
    levels=$(for system in $(systems_of student); do
      if [[ $(teacher_of "$system") == "$teacher" ]]; then levels_of "$system" | tr ' ' '\n'; fi
    done | sort -u)
    [[ -n $levels ]] || continue
    ins=(--in "3:$exp/$teacher/model.safetensors" --in "1:$data/$1/utt2spk" --in "1:$data/$1/wav.scp")
    outs=() options=()
    if grep -qE '^lde_aggr$|:lde$' <<< "$levels"; then
      find_config_inputs "$config"
      once "${config_in[@]}" "${ins[@]}" --out "$exp/$teacher/aggregation/aggregation.safetensors" \
        --neutral num-gpus -- steps/train_aggregation.sh --cmd "$cuda_cmd" --num-gpus "$num_gpus" \
        ${augmentation[@]+"${augmentation[@]}"} "$config" "$data/$1" "$exp/$teacher" "$exp/$teacher/aggregation"
      ins+=(--in "4:$exp/$teacher/aggregation/aggregation.safetensors")
      options=(--aggregation "$exp/$teacher/aggregation")
    fi
    for level in $levels; do
      outs+=(--out "$dir/$(level_file "$level").json" --out "$dir/$(level_file "$level").scp")
    done
    once "${ins[@]}" "${outs[@]}" --stamp "$dir/.done.levels" -- \
      steps/teacher_embeddings.sh --cmd "$extract_cmd" --nj "$extract_nj" --levels "${levels//$'\n'/ }" \
      ${options[@]+"${options[@]}"} "$data/$1" "$exp/$teacher" "$dir"
  done
}

# Stage 5: the traces of the networks whose bits are to be shared out, the bits, quantization and finetuning.
measure_sensitivity() {                           # <data-set>
  local parent device=cpu from
  if ((num_gpus)); then device=cuda; fi
  for parent in $(parents_of has_allocation); do
    from=$(network_stage "$parent")
    once --in "$from:$exp/$parent/model.safetensors" --in "1:$data/$1/utt2spk" \
      --in "1:$data/$1/wav.scp" --out "$exp/$parent/sensitivity.tsv" --neutral device -- \
      steps/sensitivity.sh --cmd "$cuda_cmd" --device "$device" --min-probes "$((max_probes < 20 ? max_probes : 20))" \
      --max-probes "$max_probes" "$data/$1" "$exp/$parent"
  done
}

allocate_bits() {
  local system parent config config_in
  at_a_time "$systems_nj"
  for system in $(systems_of quantized); do
    has_allocation "$system" || continue
    config=$(config_of "$system")
    parent=$(parent_of "$system")
    find_config_inputs "$config"
    once "${config_in[@]}" --in "$(network_stage "$parent"):$exp/$parent/model.safetensors" \
      --in "5:$exp/$parent/sensitivity.tsv" --out "$exp/$system/bits.tsv" --out "$exp/$system/frontier.tsv" -- \
      steps/allocate.sh --cmd "$train_cmd" "$config" "$exp/$parent" "$exp/$system/bits.tsv"
  done
  all_done
}

# Which blocks stay in float: what each costs by experiment on the first list of $trials, and the choice.
select_blocks() {
  local system parent config config_in from measured ins options seen=' ' dev=${trials%% *}
  check_one_line quantized select ptq
  at_a_time "$systems_nj"
  for system in $(systems_of quantized); do
    if ! has_selection "$system" || has_preset "$system"; then continue; fi
    config=$(config_of "$system") parent=$(parent_of "$system")
    from=$exp/$parent/blocks_$(row_of "$system")
    if [[ $seen == *" $from "* ]]; then continue; fi  # NAME_ROW and NAME_ROW-ptq go by one table
    seen+="$from "
    find_config_inputs "$config"
    ins=() options=()
    if takes_speech; then ins=(--in "2:$data/$cohort/feats.scp") options=(--ptq-data "$data/$cohort"); fi
    once "${config_in[@]}" --in "$(network_stage "$parent"):$exp/$parent/model.safetensors" --in "1:$data/$dev" \
      --in "2:$data/${dev%/*}/feats.scp" ${ins[@]+"${ins[@]}"} --out "$from/blocks.tsv" -- \
      steps/block_sensitivity.sh --cmd "$train_cmd" --trials "$data/$dev" ${options[@]+"${options[@]}"} "$config" \
      "$data/${dev%/*}" "$exp/$parent" "$from"
  done
  all_done
  seen=' '
  at_a_time "$systems_nj"
  for system in $(systems_of quantized); do
    has_selection "$system" || continue
    config=$(config_of "$system") parent=$(parent_of "$system") measured=()
    from=$exp/$parent
    if ! has_preset "$system"; then
      from+=/blocks_$(row_of "$system")
      measured=(--in "5:$from/blocks.tsv")
      if [[ $seen == *" $from "* ]]; then all_done; at_a_time "$systems_nj"; fi  # one at a time writes embeddings there
      seen+="$from "
    fi
    find_config_inputs "$config"
    once "${config_in[@]}" --in "$(network_stage "$parent"):$exp/$parent/model.safetensors" \
      ${measured[@]+"${measured[@]}"} --out "$exp/$system/bits.tsv" -- \
      steps/select.sh --cmd "$train_cmd" --config "$config" "$from" "$exp/$system/bits.tsv"
  done
  all_done
}

quantize_systems() {                              # <data-set>
  local system parent start float config config_in bits options
  check_one_line quantized ptq
  at_a_time "$systems_nj"
  for system in $(as_they_are); do
    parent=$(parent_of "$system")
    config=$(config_of "$system")
    bits=$(bits_of "$system")
    find_config_inputs "$config"
    options=()
    if takes_speech; then options=(--in "2:$data/$cohort/feats.scp" --data "$data/$cohort"); fi
    quantize_network "$system" "$config" --in "$(network_stage "$parent"):$exp/$parent/model.safetensors" \
      ${bits:+--in "5:$bits" --bits "$bits"} ${options[@]+"${options[@]}"}
  done
  all_done
  at_a_time "$systems_nj"
  for system in $(systems_of quantized); do
    if [[ $system == *-ptq ]]; then continue; fi
    parent=$(parent_of "$system")
    float=$(network_stage "$parent"):$exp/$parent/model.safetensors
    bits=$(bits_of "$system")
    options=(--in "$float")
    start=$exp/$parent
    if calibrates "$system"; then
      start=$exp/$(start_of "$system")
      options+=(--in "5:$start/model.safetensors")
    fi
    options+=(--init "$start")
    if [[ -n $bits ]]; then options+=(--in "5:$bits" --bits "$bits"); fi
    if [[ -n $(part_of "$system" distill) ]]; then options+=(--teacher "$exp/$parent"); fi
    train_network "$system" "$1" "${options[@]}"
  done
  all_done
}

# The systems that are quantized without training: those named so, and those that others are finetuned from.
as_they_are() {
  local system
  for system in $(systems_of quantized); do
    if [[ $system == *-ptq ]]; then echo "$system"; elif calibrates "$system"; then start_of "$system"; fi
  done | sort -u
}

# Whether a system's row chooses codes and levels on speech.
calibrates() {                                    # <system>
  local config_in
  find_config_inputs "$(config_of "$1")"
  [[ $(part_value ptq calibrate) == true ]]
}

# What a calibrated system is finetuned from, whatever its seed: small_calibrated2-s3 -> small_calibrated2-ptq
start_of() {
  local name=$1
  if [[ -n $(seed_of "$name") ]]; then name=${name%-s*}; fi
  echo "$name-ptq"
}

# The table of bits of a system, where it has one. One that others are finetuned from has theirs.
bits_of() {                                       # <system>
  local system=$1
  if has_allocation "$system" || has_selection "$system"; then
    if ! is_listed "$system"; then system=${system%-ptq}; fi
    echo "$exp/$system/bits.tsv"
  else
    given_bits "$system"
  fi
}

is_listed() { [[ " $systems " == *" $1 "* ]]; }

# Whether the YAMLs in config_in ask for something that is measured on speech.
takes_speech() { [[ $(part_value ptq calibrate) == true || $(part_value ptq bias_correction) == true ]]; }

# Quantizes a network as it is. After find_config_inputs.
quantize_network() {                              # <system> <config> [once and quantize.sh options...]
  local system=$1 config=$2 ins=() options=()
  shift 2
  while (($#)); do
    case $1 in
      --in) ins+=(--in "$2") ;;
      *) options+=("$1" "$2") ;;
    esac
    shift 2
  done
  once "${config_in[@]}" "${ins[@]}" --out "$exp/$system/model.safetensors" --out "$exp/$system/config.yaml" -- \
    steps/quantize.sh --cmd "$train_cmd" ${options[@]+"${options[@]}"} "$config" "$exp/$(parent_of "$system")" \
    "$exp/$system"
}

# Members of systems whose file holds several precisions, as networks of their own.
take_members() {
  local system whole
  at_a_time "$systems_nj"
  for system in $(systems_of member); do
    whole=${system%-*}
    once --in "5:$exp/$whole/model.safetensors" --in "5:$exp/$whole/config.yaml" \
      --out "$exp/$system/model.safetensors" --out "$exp/$system/config.yaml" -- \
      steps/at_precision.sh --cmd "$train_cmd" "$exp/$whole" "${system:${#whole}+1:1}"
  done
  all_done
}

# Systems in INT8 arithmetic: how large activations get is seen in utterances of the cohort.
export_systems() {
  local system float outs
  at_a_time "$systems_nj"
  for system in $(systems_of exported); do
    float=${system%-int8} outs=(--out "$(model_of "$system")")
    if [[ $int8_runtime == openvino ]]; then outs+=(--out "$exp/$system/model.bin"); fi
    once --in "$(network_stage "$float"):$exp/$float/model.safetensors" --in "2:$data/$cohort/feats.scp" \
      "${outs[@]}" --out "$exp/$system/summary.json" -- \
      steps/export.sh --cmd "$train_cmd" --int8 true --calibration "$data/$cohort" \
      --summary "$exp/$system/summary.json" "$exp/$float" "$(model_of "$system")"
  done
  all_done
}

# Stage 6: embeddings of every set, and the training speakers' means.
extract_embeddings() {
  local system set dir device
  at_a_time "$systems_nj"
  for system in $systems; do
    device=()
    if ((num_gpus)) && ! is_a exported "$system"; then device=(--device cuda); fi  # exported ones have runtimes of the CPU
    for set in $(embedding_sets); do
      dir=$exp/$system/embeddings/$set
      once --in "2:$data/$set/feats.scp" --in "$(network_stage "$system"):$(model_file_of "$system")" \
        --out "$dir/embedding.scp" --out "$dir/embedding.ark" --neutral device -- \
        steps/extract.sh --cmd "$extract_cmd" --nj "$extract_nj" ${device[@]+"${device[@]}"} \
        "$data/$set" "$(model_of "$system")" "$dir"
    done
  done
  all_done
  at_a_time "$systems_nj"
  for system in $systems; do
    dir=$exp/$system/embeddings/$cohort
    once --in "$dir/embedding.ark" --in "1:$data/$cohort/spk2utt" --out "$dir/spk_embedding.scp" \
      --out "$dir/spk_embedding.ark" --out "$dir/mean.vec" -- \
      steps/speaker_means.sh --cmd "$train_cmd" "$data/$cohort" "$dir"
  done
  all_done
}

# Stages 7 and 8: scores of every list by every back end, plain and normalised.
train_plda() {
  local system
  if [[ " $backends " != *" plda "* ]]; then return; fi
  at_a_time "$systems_nj"
  for system in $systems; do
    once --in "6:$exp/$system/embeddings/$cohort/embedding.ark" --in "1:$data/$cohort/spk2utt" \
      --out "$exp/$system/plda.safetensors" -- \
      steps/train_plda.sh --cmd "$train_cmd" --lda-dim "$lda_dim" "$data/$cohort" "$exp/$system/embeddings/$cohort" \
      "$exp/$system/plda.safetensors"
  done
  all_done
}

for_each_scoring() {                              # <function>: called with <system> <list> <backend>
  local system list backend
  at_a_time "$systems_nj"
  for system in $systems; do
    for list in $trials; do
      for backend in $backends; do "$1" "$system" "$list" "$backend"; done
    done
  done
  all_done
}

# What scores of a list are made with beside embeddings: sets the arrays `model_in`, options of `once`, and `model`.
find_models() {                                   # <system> <list> <backend>
  local enroll=$data/${2%/*}/enroll.spk2utt plda=$exp/$1/plda.safetensors
  model_in=() model=()
  if [[ $3 == plda ]]; then model_in=(--in "7:$plda") model=(--plda "$plda"); fi
  if [[ -e $enroll ]]; then                       # models of several recordings
    model_in+=(--in "1:$enroll") model+=(--enroll-spk2utt "$enroll")
  fi
}

score_trials() {                                  # <system> <list> <backend>
  local dir=$exp/$1 scores=$exp/$1/scores model_in model
  scores+=/$(list_name "$2")
  find_models "$@"
  once --in "1:$data/$2" --in "6:$dir/embeddings/${2%/*}/embedding.ark" --in "6:$dir/embeddings/$cohort/mean.vec" \
    ${model_in[@]+"${model_in[@]}"} --out "$scores/$3_none.score" -- \
    steps/score.sh --cmd "$train_cmd" --backend "$3" --cohort "$dir/embeddings/$cohort" ${model[@]+"${model[@]}"} \
    "$data/$2" "$dir/embeddings/${2%/*}" "$scores"
}

normalize_scores() {                              # <system> <list> <backend>
  local dir=$exp/$1 scores=$exp/$1/scores model_in model norm
  scores+=/$(list_name "$2")
  find_models "$@"
  for norm in $norms; do
    if [[ $norm == none ]]; then continue; fi
    once --in "7:$scores/$3_none.score" --in "6:$dir/embeddings/$cohort/spk_embedding.ark" \
      --in "6:$dir/embeddings/${2%/*}/embedding.ark" --in "1:$data/$2" \
      ${model_in[@]+"${model_in[@]}"} --out "$scores/$3_$norm.score" -- \
      steps/score_norm.sh --cmd "$train_cmd" --backend "$3" --norm "$norm" --top-n "$top_n" \
      --cohort "$dir/embeddings/$cohort" ${model[@]+"${model[@]}"} "$data/$2" "$dir/embeddings/${2%/*}" "$scores"
  done
}

# The plain cosine scores, whose calibration goes into the packed file, are calibrated in any case.
calibrated_norms() {                              # <backend>
  if [[ $1 == cosine && " $norms " != *" none "* ]]; then echo none; fi
  echo "$norms"
}

# Stage 9: log-likelihood ratios by logistic regression on the first list of $trials. The mean goes with them: it was
# taken off the embeddings before they were compared.
calibrate_scores() {
  local system list backend norm from dev mean ins outs
  dev=${trials%% *}
  at_a_time "$systems_nj"
  for system in $systems; do
    ins=() outs=()
    for list in $trials; do
      for backend in $backends; do
        for norm in $(calibrated_norms "$backend"); do
          from=$([[ $norm == none ]] && echo 7 || echo 8)
          ins+=(--in "$from:$exp/$system/scores/$(list_name "$list")/${backend}_$norm.score")
          outs+=(--out "$exp/$system/scores/$(list_name "$list")/${backend}_$norm.llr")
          if [[ $list == "$dev" ]]; then
            outs+=(--out "$exp/$system/scores/$(list_name "$list")/${backend}_$norm.calibration.json")
          fi
        done
      done
    done
    mean=$exp/$system/embeddings/$cohort/mean.vec
    once --in "1:$data/$dev" --in "6:$mean" "${ins[@]}" "${outs[@]}" -- \
      steps/calibrate.sh --cmd "$train_cmd" --dev "$(list_name "$dev")" --mean "$mean" "$data/$dev" \
      "$exp/$system/scores"
  done
  all_done
}

# Stage 10: packed files; the calibration that goes with the plain cosine score travels in them.
pack_systems() {
  local system file calibration_in calibration
  at_a_time "$systems_nj"
  for system in $systems; do
    if is_a exported "$system"; then continue; fi  # a file already, with its size beside it
    calibration_in=() calibration=()
    if [[ " $backends " == *" cosine "* ]] && { is_a quantized "$system" || is_a member "$system"; }; then
      file=$exp/$system/scores/$(list_name "${trials%% *}")/cosine_none.calibration.json
      calibration_in=(--in "9:$file") calibration=(--calibration "$file")
    fi
    once --in "$(network_stage "$system"):$exp/$system/model.safetensors" ${calibration_in[@]+"${calibration_in[@]}"} \
      --out "$exp/$system/summary.json" -- \
      steps/pack.sh --cmd "$train_cmd" ${calibration[@]+"${calibration[@]}"} "$exp/$system"
  done
  all_done
}

# Stage 11: tables and plots.
make_report() {
  local system list backend norm ins=()
  for system in $systems; do
    ins+=(--in "$(is_a exported "$system" && echo 5 || echo 10):$exp/$system/summary.json")
    for list in $trials; do
      for backend in $backends; do
        for norm in $norms; do ins+=(--in "9:$exp/$system/scores/$(list_name "$list")/${backend}_$norm.llr"); done
      done
    done
  done
  once "${ins[@]}" --out "$report/results.tsv" --out "$report/report.html" -- \
    steps/report.sh --cmd "$train_cmd" --out "$report" --systems "$systems" --trials "$trials" --backends "$backends" \
    --norms "$norms" --title "$title" "$data" "$exp"
}

# Stage 12: figures and tables on quantization, of every float system that has quantized ones.
report_quantization() {
  local parent system out ins
  for parent in $(parents_of true); do
    if [[ " $systems " != *" $parent "* ]]; then continue; fi  # not in the results: nothing to compare with
    ins=(--in "11:$report/results.tsv" --in "$(network_stage "$parent"):$exp/$parent/model.safetensors")
    if [[ -e $exp/$parent/sensitivity.tsv ]]; then ins+=(--in "$exp/$parent/sensitivity.tsv"); fi
    for system in $(systems_of quantized); do
      if [[ $(parent_of "$system") == "$parent" ]]; then ins+=(--in "5:$exp/$system/model.safetensors"); fi
    done
    out=$report/quantization/$parent
    once "${ins[@]}" --out "$out/index.html" --out "$out/results.md" --out "$out/results.tex" -- \
      steps/quant_report.sh --cmd "$train_cmd" --results "$report/results.tsv" --out "$out" --title "$title: $parent" \
      "$exp" "$parent"
  done
}

# Stage 13: for every float system in $search the settings of its finetuning, by a search that workers share, and what
# its systems cost and are worth, by identification too. The table is of the second list of $trials, not the one
# searched by. What was searched for something else is set aside.
search_settings() {                               # <data-set>
  local parent dir config config_in feats_in dev=${trials%% *} options augmentation restart=true
  if [[ $force == true ]]; then restart=always; fi
  config=$conf/quant/$search_row.yaml
  find_augmentation
  for parent in $search; do
    dir=$exp/$parent/search
    find_config_inputs "$config"
    find_feature_inputs "$1"
    options=()
    if [[ -n $(part_lines distill) ]]; then options=(--teacher "$exp/$parent"); fi
    once --in "$conf/search.yaml" "${config_in[@]}" --in "$(network_stage "$parent"):$exp/$parent/model.safetensors" \
      --in "1:$data/$1/utt2spk" --in "1:$data/$1/wav.scp" ${feats_in[@]+"${feats_in[@]}"} --in "1:$data/$dev" \
      --in "2:$data/${dev%/*}/feats.scp" --out "$dir/trials.tsv" --out "$dir/best.yaml" \
      --out "$dir/best/model.safetensors" --neutral nj --neutral num-gpus --neutral restart -- \
      steps/search.sh --cmd "$cuda_cmd" --nj "$search_nj" --num-gpus "$((num_gpus > 0))" --restart "$restart" \
      --trials "$data/$dev" ${options[@]+"${options[@]}"} ${augmentation[@]+"${augmentation[@]}"} \
      "$conf/search.yaml" "$config" "$data/$1" "$exp/$parent" "$data/${dev%/*}" "$dir"
  done
}

trade_off() {
  local parent system dir lists test ins models
  read -ra lists <<< "$trials"
  test=${lists[1]-${lists[0]}}
  for parent in $search; do
    dir=$exp/$parent/search
    ins=(--in "13:$dir/trials.tsv" --in "13:$dir/best/model.safetensors"
      --in "$(network_stage "$parent"):$exp/$parent/model.safetensors") models=("$parent=$exp/$parent")
    for system in $systems; do
      if [[ $system == "${parent}_"* || $system == "$parent-int8" ]]; then
        ins+=(--in "$(network_stage "$system"):$(model_file_of "$system")")
        models+=("$system=$(model_of "$system")")
      fi
    done
    once "${ins[@]}" --in "1:$data/$test" --in "2:$data/${test%/*}/feats.scp" \
      --out "$dir/report/index.html" --out "$dir/report/tradeoff.tsv" -- \
      steps/tradeoff.sh --cmd "$train_cmd" --study "$dir/study.db" --trials "$data/$test" \
      --title "$title: settings of finetuning $parent" "$data/${test%/*}" "$dir/report" "${models[@]}" "best=$dir/best"
  done
}

# Stage 14: for every float system in $analysis why bits cost what they cost: by score, of all its systems on every
# list, and by layer, of the rows in $analysis_rows before finetuning and, where they are among the systems, after it.
# What others are compared with is the float system with the same finetuning, where there is one.
control_of() {                                    # <float system>
  if [[ " $systems " == *" ${1}_float "* ]]; then echo "${1}_float"; else echo "$1"; fi
}

analyse_scores() {
  local parent control system list file dir others ins
  for parent in $analysis; do
    control=$(control_of "$parent") dir=$report/analysis/$parent/scores others=() ins=()
    for system in $systems; do
      if [[ $(parent_of "${system%-int8}") == "$parent" && $system != "$parent" && $system != "$control" ]]; then
        others+=("$system")
      fi
    done
    if [[ " $systems " != *" $control "* ]] || ((${#others[@]} == 0)); then
      echo "  leave out the analysis of $parent: $parent and systems made from it are not both in --systems"
      continue
    fi
    for system in "$control" "${others[@]}"; do
      ins+=(--in "$(is_a exported "$system" && echo 5 || echo 10):$exp/$system/summary.json")
      for list in $trials; do ins+=(--in "7:$exp/$system/scores/$(list_name "$list")/cosine_none.score"); done
    done
    for list in $trials; do
      ins+=(--in "1:$data/$list")
      for file in utt2dur spk2gender utt2domain enroll.spk2utt; do  # what results are broken down by
        if [[ -e $data/${list%/*}/$file ]]; then ins+=(--in "1:$data/${list%/*}/$file"); fi
      done
    done
    once "${ins[@]}" --out "$dir/index.html" --out "$dir/scores.tsv" --out "$dir/scores.md" -- \
      steps/score_analysis.sh --cmd "$train_cmd" --exp "$exp" --data "$data" --title "$title: scores of $parent" \
      "$trials" "$dir" "$control" "${others[@]}"
  done
}

analyse_layers() {
  local parent control row dir config_in dev=${trials%% *}
  at_a_time "$systems_nj"
  for parent in $analysis; do
    if [[ " $systems " != *" $parent "* ]]; then continue; fi  # stage 14 has said so
    control=$(control_of "$parent")
    for row in $analysis_rows; do
      dir=$report/analysis/$parent/layers_$row
      find_config_inputs "$conf/quant/$row.yaml"
      once "${config_in[@]}" --in "$(network_stage "$parent"):$exp/$parent/model.safetensors" --in "1:$data/$dev" \
        --in "2:$data/${dev%/*}/feats.scp" --out "$dir-ptq/index.html" --out "$dir-ptq/layers.md" -- \
        steps/layer_analysis.sh --cmd "$train_cmd" --max-utts "$analysis_utts" --model "$exp/$parent" \
        --config "$conf/quant/$row.yaml" --trials "$data/$dev" \
        --title "$title: layers of $parent, $row without finetuning" "$data/${dev%/*}" "$dir-ptq"
      if [[ " $systems " == *" ${parent}_$row "* ]]; then
        once --in "5:$exp/${parent}_$row/model.safetensors" --in "5:$exp/$control/model.safetensors" \
          --in "1:$data/$dev" --in "2:$data/${dev%/*}/feats.scp" --in "2:$data/$cohort/feats.scp" \
          --out "$dir/index.html" --out "$dir/layers.md" -- \
          steps/layer_analysis.sh --cmd "$train_cmd" --max-utts "$analysis_utts" --model "$exp/$control" \
          --quantized "$exp/${parent}_$row" --norms-data "$data/$cohort" --trials "$data/$dev" \
          --title "$title: layers of ${parent}_$row" "$data/${dev%/*}" "$dir"
      fi
    done
  done
  all_done
}

# Trials as a service has them, for measured seconds: utterances in one trial each, of one gender where that is known.
make_live_trials() {                              # <data-dir>
  local ins=(--in "1:$1/utt2spk") gender=false
  if [[ -e $1/spk2gender ]]; then ins+=(--in "1:$1/spk2gender") gender=true; fi
  once "${ins[@]}" --out "$1/trials_live" -- \
    utils/make_trials.sh --name live --once true --max-tests 2000 --same-gender "$gender" "$1"
}

# Stage 15: cascades. One in $ladders is its systems, the cheapest first, with colons between them.
run_cascades() {
  local ladder dir rungs system list tests=() scores model_ins live=() dev=${trials%% *}
  for list in ${trials#"$dev"}; do tests+=("$data/$list"); done
  if [[ -n $ladders && ${#tests[@]} == 0 ]]; then
    echo "run.sh: --ladders needs a second list in --trials: the deltas are chosen on the first" >&2
    exit 1
  fi
  for ladder in $ladders; do
    read -ra rungs <<< "${ladder//:/ }"
    dir=$report/cascade/${ladder//:/-} scores=() model_ins=()
    for system in "${rungs[@]}"; do
      if [[ " $systems " == *" $system "* ]]; then continue; fi
      echo "  leave out the cascade $ladder: $system is not in --systems"
      continue 2
    done
    for system in "${rungs[@]}"; do
      # The summary stands for the packed file: the ladder names that one where it is there.
      model_ins+=(--in "$(network_stage "$system"):$(model_file_of "$system")"
        --in "$(is_a exported "$system" && echo 5 || echo 10):$exp/$system/summary.json"
        --in "6:$exp/$system/embeddings/$cohort/mean.vec")
      for list in $trials; do scores+=(--in "7:$exp/$system/scores/$(list_name "$list")/cosine_none.score"); done
    done
    once "${model_ins[@]}" --out "$dir/systems.yaml" -- \
      steps/make_ladder.sh --exp "$exp" --cohort "$cohort" "$dir/systems.yaml" "${rungs[@]}"
    for list in $trials; do scores+=(--in "1:$data/$list"); done
    if [[ $cascade_run == true && ${#live[@]} == 0 ]]; then
      make_live_trials "${tests[0]%/*}"
      live=("${tests[0]%/*}/trials_live")
    fi
    once --in "$dir/systems.yaml" "${model_ins[@]}" "${scores[@]}" ${live[@]+--in "${live[0]}"} \
      --out "$dir/ladder.yaml" --out "$dir/report/cascade.tsv" --out "$dir/report/index.html" -- \
      steps/cascade.sh --cmd "$train_cmd" --limits "$cascade_limits" --run "$cascade_run" \
      ${live[@]+--run-trials "${live[0]}"} "$dir/systems.yaml" "$data/$dev" "$dir" "${tests[@]}"
  done
}
