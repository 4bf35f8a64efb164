# shellcheck shell=bash
# Sourced by run.sh after utils/stages.sh: what the names in --systems mean (svq/names.py), and whether all
# options make sense, before anything is done. Sets for every system, as svq.bin.systems says,
#
#   ${config_of[$system]}  its settings, such as conf/finetune.yaml:kmqat4
#   ${net_of[$system]}     the float network that it is quantized from
#   ${start_of[$system]}   what its finetuning starts from: that network, or the same quantized with calibration
#   ${teacher_of[$system]} what it is distilled from; empty: nothing
#   ${seed_of[$system]}    the seed that its name gives; empty: that of its settings
#   ${bits_of[$system]}    its table of bits by layer; empty: the bits of its settings for all
#   ${model_of[$system]}   what computes its embeddings: a folder, or the file of an exported system
#
# and so on, and lists of systems by what is to be done: $teachers, $students, $allocated, $rounded, $finetuned, ...

declare -A kind_of=() net_of=() start_of=() teacher_of=() levels_of=() config_of=() seed_of=() bits_of=() blocks_of=() \
  speech_of=() whole_of=() member_bits_of=() exported_of=() model_of=() model_file_of=() control_of=() compared_of=() \
  rungs_of=() list_name_of=() set_of=() traded_of=() value_of=()
if [[ -z $report && -n ${table-} ]]; then report=$exp/$table; fi
_svq_words=()
for _svq_name in "${svq_options[@]}"; do _svq_words+=("$_svq_name=${!_svq_name}"); done
_svq_table=$(python3 -m svq.bin.systems "${_svq_words[@]}") || exit
while IFS=$'\t' read -r _svq_what _svq_name _svq_key _svq_value; do
  case $_svq_what in
    list) printf -v "$_svq_name" %s "$_svq_key" ;;
    of) printf -v "${_svq_name}_of[$_svq_key]" %s "$_svq_value" ;;
    note) if ((_svq_name >= stage && _svq_name <= stop_stage)); then printf '  %s\n' "$_svq_key"; fi ;;
  esac
done <<< "$_svq_table"
cohort=${value_of[cohort]} report=${value_of[report]}
unset _svq_words _svq_table _svq_what _svq_name _svq_key _svq_value

# Noise and rooms for trainings, where stage 1 has made their directories, as options of steps/train.sh.
find_augmentation() {                             # sets the array `augmentation`
  local kind
  augmentation=()
  for kind in noise rir; do
    if [[ -d $data/$kind ]]; then augmentation+=("--$kind" "$data/$kind"); fi
  done
}
