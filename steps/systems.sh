# shellcheck shell=bash disable=SC2034,SC2154  # variables of run.sh, and for it
# Sourced by run.sh after utils/stages.sh. Finds out what the names in --systems mean (svq/names.py), and checks all
# options before anything is done. Sets lists of systems by what is to be done with them ($teachers, $students,
# $allocated, $rounded, $finetuned, $members, $exported, ...), and for each system
#
#   ${config_of[$system]}       its settings, such as conf/finetune.yaml:kmqat4
#   ${finetuning_of[$net]}      the config that systems of a float network are finetuned by, such as conf/finetune.yaml
#   ${net_of[$system]}          the float network that it is quantized from
#   ${start_of[$system]}        the network that its finetuning starts from: that one, or the same quantized on speech
#   ${teacher_of[$system]}      the network that it is distilled from; empty: none
#   ${given_of[$system]}        the file (its system) whose embeddings it learns, in place of a network; empty: none
#   ${file_of[$system]}         the file that the system is, such as an .onnx; empty: a model folder, or exported here
#   ${seed_of[$system]}         the seed that its name gives; empty: that of its settings
#   ${bits_of[$system]}         its table of bits by layer; empty: the bits of its settings for all
#   ${speech_of[$system]}       the data directory that it is quantized on; empty: none
#   ${model_of[$system]}        the model that computes its embeddings: a folder, or the file of an exported system
#   ${device_of[$system]}       where it computes them: cpu or cuda
#   ${calibration_of[$system]}  the calibration that goes into its packed file; empty: none
#
# $cohort is the data directory of the cohort; $means_only says whether nothing takes its embeddings but their means.
# svq.bin.systems says what else there is. Of the trial lists, $dev_list is the first and $test_list the second.

declare -A kind_of=() net_of=() row_of=() start_of=() teacher_of=() levels_of=() config_of=() input_of=() seed_of=() \
  bits_of=() blocks_of=() speech_of=() whole_of=() member_bits_of=() exported_of=() model_of=() model_file_of=() \
  control_of=() compared_of=() rungs_of=() list_name_of=() set_of=() traded_of=() search_teacher_of=() value_of=() \
  given_of=() file_of=() device_of=() calibration_of=() dictionary_of=() finetuning_of=()

if [[ -z $report && -n ${table-} ]]; then report=$exp/$table; fi
_svq_words=("from_elsewhere=${from_elsewhere-false}")
for _svq_name in "${svq_options[@]}"; do _svq_words+=("$_svq_name=${!_svq_name}"); done
_svq_table=$(python3 -m svq.bin.systems "${_svq_words[@]}") || exit
while IFS=$'\t' read -r _svq_what _svq_name _svq_key _svq_value; do
  case $_svq_what in
    list) printf -v "$_svq_name" %s "$_svq_key" ;;
    of) printf -v "${_svq_name}_of[$_svq_key]" %s "$_svq_value" ;;
    note) if ((_svq_name >= stage && _svq_name <= stop_stage)); then printf '  %s\n' "$_svq_key"; fi ;;
  esac
done <<< "$_svq_table"

cohort=${value_of[cohort]} report=${value_of[report]} means_only=${value_of[means_only]}
read -ra test_lists <<< "$trials"
dev_list=${test_lists[0]} test_list=${test_lists[1]-${test_lists[0]}}
test_lists=("${test_lists[@]:1}")
dev_set=${dev_list%/*} test_set=${test_list%/*}

device=cpu
if ((${num_gpus-0})); then device=cuda; fi
for _svq_name in "${!speech_of[@]}"; do
  if [[ ${speech_of[$_svq_name]} == true ]]; then speech_of[$_svq_name]=$data/$cohort; else speech_of[$_svq_name]=; fi
done
for _svq_name in $file_teachers; do device_of[$_svq_name]=cpu; done
for _svq_name in $systems; do
  device_of[$_svq_name]=$device calibration_of[$_svq_name]=
  case ${kind_of[$_svq_name]} in
    exported | file) device_of[$_svq_name]=cpu ;;   # their runtimes have no other device
    rounded | finetuned | member)
      if [[ " $backends " == *" cosine "* && ${row_of[$_svq_name]} != float ]]; then
        calibration_of[$_svq_name]=$exp/$_svq_name/scores/${list_name_of[$dev_list]}/cosine_none.calibration.json
      fi ;;
  esac
done
for _svq_name in $level_teachers; do dictionary_of[$_svq_name]=; done
for _svq_name in $dictionaries; do dictionary_of[$_svq_name]=$exp/$_svq_name/aggregation; done
unset _svq_words _svq_table _svq_what _svq_name _svq_key _svq_value

# Finds noise and rooms for trainings, if stage 1 has made their directories: options of steps/train.sh.
find_augmentation() {                             # sets the array `augmentation`
  local kind
  augmentation=()
  for kind in noise rir; do
    if [[ -d $data/$kind ]]; then augmentation+=("--$kind" "$data/$kind"); fi
  done
}

# Stops where a list of --trials is not there once the data directories are: before anything is trained.
need_lists() {
  local list
  for list in $trials; do
    need "$data/$list" "stage 1 makes no such list (--trials)"
  done
}
