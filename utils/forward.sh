# shellcheck shell=bash
# Sourced by parse_options.sh in a script that names the Python workers that take its other options:
#
#   nj=4                                            # an option of the script's own
#   _forward_to=("svq.bin.extract but data job")     # python3 -m svq.bin.extract takes the rest
#   . utils/parse_options.sh
#   python3 -m svq.bin.extract "${to_extract[@]}" --data data --job 1
#
# Each entry is MODULE, or MODULE VERB, then `but` and the options that the script gives itself, or `only` and those that
# it forwards. The options, their kinds, defaults and help come from the argparse of the worker: utils/declared.py asks
# it, and keeps the answer beside the script until a file that it depends on changes. They become options of the script
# like its own: variables with the worker's defaults, listed by --help, checked before anything is done. The array to_NAME
# holds those that were given; NAME is the verb, or the last word of the module. For an option of several words the
# script takes one text with blanks. An option without a default may be given empty, as if it were not given.
# svq_forwarded holds --NAME=VALUE of every option, given or not (utils/step.sh).

# Reads the options that the workers declare into the tables of parse_options.sh.
__po_read_workers() {                             # <word given to the script>...
  local folder=. utils=${BASH_SOURCE[0]%/*} lines=()
  if [[ $__po_script == */* ]]; then folder=${__po_script%/*}; fi
  if __po_kept "$folder/__pycache__/options/${__po_script##*/}.options"; then
    __po_take "${lines[@]:1}"
  elif [[ " $* " =~ \ (-h|--help)\  && ! -x $utils/../.venv/bin/python3 ]]; then
    __po_note="Its workers' options are listed once utils/setup.sh has run."
  else
    lines=$(. "$utils/../path.sh" >&2 && python3 "$utils/declared.py" "$__po_script") || exit
    mapfile -t lines <<< "$lines"
    __po_take "${lines[@]:1}"
  fi
}

# Fills `lines` from the kept answer, if the files that it depends on have not changed. Starts no program.
__po_kept() {                                     # <file>
  local source IFS=$'\x1f'
  { mapfile -t lines < "$1"; } 2> /dev/null || return 1
  for source in ${lines[0]}; do
    [[ ! $folder/$source -nt ${1%/*}/${source//\//+} && ! $folder/$source -ot ${1%/*}/${source//\//+} ]] || return 1
  done
}

# Takes for each worker a line with its array and its name, then two lines for each option: its facts, and its help.
__po_take() {                                     # <line of declared.py>...
  local __po_field __po_name __po_worker __po_array IFS=$'\x1f'
  set -f                                          # the fields of a line are words, not patterns
  while (($#)); do
    # shellcheck disable=SC2206
    __po_field=($1)
    shift
    if ((${#__po_field[@]} == 2)); then
      __po_array=${__po_field[0]} __po_worker=${__po_field[1]}
      __po_workers+=("$__po_worker")
      declare -ga "$__po_array=()"
      continue
    fi
    __po_name=${__po_field[0]}                    # then come kind, shape, whether it is needed, default, choices
    if [[ -z ${__po_shape[$__po_name]+x} ]]; then
      [[ -z ${__po_known[$__po_name]+x} ]] ||
        __po_fail "--${__po_name//_/-} is declared here and by $__po_worker: name it after \`but\` in _forward_to"
      printf -v "$__po_name" %s "${__po_field[4]}"
      __po_known[$__po_name]=1 __po_kinds[$__po_name]=${__po_field[1]} __po_shape[$__po_name]=${__po_field[2]}
      __po_default[$__po_name]=${__po_field[4]} __po_choices[$__po_name]=${__po_field[5]-}
      __po_comment[$__po_name]=${1-}
      __po_forwarded+=("$__po_name")
      [[ -z ${__po_field[3]} ]] || __po_needed+=("$__po_name")
    fi
    __po_arrays[$__po_name]+=" $__po_array"
    __po_theirs[$__po_worker]+=" $__po_name"
    shift $(($# > 0))                             # the shell drops an empty line at the end
  done
  set +f
}

# Puts the options that were given into the arrays of their workers.
__po_forward() {
  local __po_name __po_value __po_array __po_words
  for __po_name in ${__po_needed[@]+"${__po_needed[@]}"}; do
    [[ -n ${!__po_name} ]] || __po_fail "needs --${__po_name//_/-} (--help says more)"
  done
  for __po_name in ${__po_forwarded[@]+"${__po_forwarded[@]}"}; do
    __po_value=${!__po_name} __po_words=("--${__po_name//_/-}")
    svq_forwarded+=("--${__po_name//_/-}=$__po_value")
    [[ -n ${__po_given[$__po_name]-} && -n $__po_value${__po_default[$__po_name]} ]] || continue
    case ${__po_shape[$__po_name]} in
      flag) [[ $__po_value == true ]] || continue ;;
      many | some) read -ra __po_words <<< "--${__po_name//_/-} $__po_value" ;;
      *) if [[ $__po_value == -* ]]; then __po_words[0]+==$__po_value; else __po_words+=("$__po_value"); fi ;;
    esac
    for __po_array in ${__po_arrays[$__po_name]}; do
      local -n __po_to=$__po_array
      __po_to+=("${__po_words[@]}")
      unset -n __po_to
    done
  done
}
