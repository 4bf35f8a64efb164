# Sourced after the option variables at the top of a bash script:
#
#   #!/usr/bin/env bash
#   # What the script does; --help prints this comment.
#   set -euo pipefail
#   nj=4          # number of jobs
#   lr=0.1        # learning rate
#   augment=true  # add noise and rooms
#   corpus=       # folder of the corpus
#   . utils/parse_options.sh
#
# Every lower-case variable assigned in the first column above that line is an option (a name that
# starts with an underscore is not). --learning-rate and --learning_rate are the same, and so are
# `--nj 8` and `--nj=8`; `--augment` alone means true. The kind follows the default: integer,
# number, true or false, else text. A list is one quoted text: --systems "teacher student".
# A text that starts with two dashes needs the form --option=TEXT.
# A mistake ends the script with one line and exit status 2. Values are never evaluated.
# A script does not repeat the options of its Python workers: utils/forward.sh says how it takes them, too.
# For utils/step.sh and utils/stages.sh: svq_script is the absolute path of the script, svq_argv holds the words as they
# were given, svq_options the names of the script's own options, svq_forwarded the options of its workers as
# --NAME=VALUE, svq_arguments the words after the options.
# Options end at -- or at the first word that is no option; the rest stay in "$@".

# shellcheck shell=bash
__po_fail() { printf '%s: %s\n' "${__po_script##*/}" "$1" >&2; exit 2; }

# Finds the file of the calling script: its name may be relative to a folder that the script has left with cd.
__po_find_script() {
  local candidate line
  for candidate in "$1" "${OLDPWD:-.}/$1" "${1##*/}" "$0"; do
    [[ -f $candidate && -r $candidate ]] || continue
    mapfile -t -s $(($2 - 1)) -n 1 line < "$candidate"
    if [[ ${line-} == *parse_options* ]]; then __po_script=$candidate; return 0; fi
  done
  __po_script=$1
  __po_fail "cannot read this script again to learn its options (parse_options.sh)"
}

# Fills __po_names; with a second argument, also __po_header and __po_comment (for --help).
__po_read_script() {
  local line lines name rest above="" in_header=1 last="" text
  # The value with its quotes, then a comment; a # inside quotes belongs to the value.
  local with_comment='^("[^"]*"|'\''[^'\'']*'\''|[^[:space:]"'\''#]*)[[:space:]]+#[[:space:]]?(.*)$'
  (($1 > 1)) || return 0                          # -n 0 would read all lines
  mapfile -t -n $(($1 - 1)) lines < "$__po_script"
  for line in ${lines[@]+"${lines[@]}"}; do
    if [[ $line =~ ^([a-z][a-z0-9_]*)=(.*)$ ]]; then
      in_header=0
      name=${BASH_REMATCH[1]} rest=${BASH_REMATCH[2]}
      [[ -n ${__po_known[$name]+x} ]] || __po_names+=("$name")
      __po_known[$name]=1
      [[ -n ${2-} ]] || continue
      [[ -z $rest ]] || [[ $rest == [[:space:]]* ]] && rest='""'$rest
      text=$above
      if [[ $rest =~ $with_comment ]]; then text=${BASH_REMATCH[2]}
      elif [[ $rest == *[[:space:]]#\ * ]]; then text=${rest##*[[:space:]]# }; fi
      __po_comment[$name]=$text last=$name above=""
    elif [[ -n ${2-} ]]; then
      if ((in_header)) && [[ $line == '#!'* ]]; then continue
      elif ((in_header)) && [[ $line == '#'* && $line != '# shellcheck '* ]]; then
        text=${line#\#} __po_header+=${text# }$'\n'
      elif [[ $line =~ ^[[:space:]]+#[[:space:]]*(.*)$ && -n $last ]]; then
        __po_comment[$last]+=$'\n'${BASH_REMATCH[1]}      # a comment that goes on below its option
      elif [[ $line == '#'* && $line != '# shellcheck '* ]]; then
        text=${line#\#} above+=${above:+$'\n'}${text# } last=""
      else in_header=0 above="" last=""
      fi
    fi
  done
}

# Gives the kind of an option: the one that its worker declares, or that of its default.
__po_kind_of() {                                  # <option> <variable>
  if [[ -n ${__po_kinds[$1]-} ]]; then printf -v "$2" %s "${__po_kinds[$1]}"
  else __po_kind "${__po_default[$1]}" "$2"; fi
}

__po_kind() {
  case $1 in
    true | false) printf -v "$2" boolean ;;
    *) if [[ $1 =~ ^-?(0|[1-9][0-9]{0,17})$ ]]; then printf -v "$2" integer
       elif [[ $1 =~ $__po_number ]]; then printf -v "$2" number
       else printf -v "$2" text; fi ;;
  esac
}

__po_help() {
  local __po_name __po_worker
  __po_names=() __po_known=()
  __po_read_script "$1" with-comments
  printf '%s\nOptions [default]:\n' "$__po_header"
  __po_list ${__po_names[@]+"${__po_names[@]}"}
  for __po_worker in ${__po_workers[@]+"${__po_workers[@]}"}; do
    printf 'Options of %s [default]:\n' "$__po_worker"
    # shellcheck disable=SC2086                     # names hold no blanks
    __po_list ${__po_theirs[$__po_worker]}
  done
  [[ -z $__po_note ]] || printf '%s\n' "$__po_note"
  exit 0
}

__po_list() {                                     # <option>...
  local __po_line __po_width=0 __po_pad __po_word
  for __po_name; do ((${#__po_name} > __po_width)) && __po_width=${#__po_name}; done
  printf -v __po_pad '%*s' $((__po_width + 15)) ''
  for __po_name; do
    __po_line=${__po_comment[$__po_name]-}
    [[ -z ${__po_default[$__po_name]} ]] || __po_line+="${__po_line:+ }[${__po_default[$__po_name]}]"
    __po_kind_of "$__po_name" __po_word
    printf '  --%-*s  %-8s %s\n' "$__po_width" "${__po_name//_/-}" "$__po_word" \
      "${__po_line//$'\n'/$'\n'$__po_pad}"
  done
}

__po_assign() {                                   # option as typed, variable, value, kind
  local __po_words=("$3") __po_word
  __po_given[$2]=1
  printf -v "$2" %s "$3"
  [[ -n $3 || -n ${__po_default[$2]} ]] || return 0
  if [[ ${__po_shape[$2]-} == @(many|some) ]]; then read -ra __po_words <<< "$3"; fi
  [[ ${__po_shape[$2]-} != some || ${#__po_words[@]} != 0 ]] || __po_fail "$1 needs a value"
  for __po_word in ${__po_words[@]+"${__po_words[@]}"}; do
    case $4 in
      boolean) [[ $__po_word == true || $__po_word == false ]] || __po_fail "$1 takes true or false, not '$3'" ;;
      integer) [[ $__po_word =~ ^-?(0|[1-9][0-9]{0,17})$ ]] || __po_fail "$1 takes an integer, not '$3'" ;;
      number) [[ $__po_word =~ $__po_number ]] || __po_fail "$1 takes a number, not '$3'" ;;
    esac
    [[ -z ${__po_choices[$2]-} || ( " ${__po_choices[$2]} " == *" $__po_word "* && $__po_word != *\ * ) ]] ||
      __po_fail "$1 takes one of ${__po_choices[$2]}, not '$__po_word'"
  done
}

__po_parse() {
  local __po_typed __po_name __po_value __po_is
  while (($#)); do
    case $1 in
      --) shift; break ;;
      -h | --help) __po_help "$__po_line" ;;
      --*) ;;
      - | -[0-9]* | -.[0-9]*) break ;;                 # means standard input, or is a negative number
      -*) __po_fail "unknown option $1 (--help lists them)" ;;
      *) break ;;
    esac
    __po_typed=${1%%=*}
    __po_name=${__po_typed#--} __po_name=${__po_name//-/_}
    [[ -n $__po_name && -n ${__po_known[$__po_name]+x} ]] ||
      __po_fail "unknown option $__po_typed (--help lists them)"
    __po_kind_of "$__po_name" __po_is
    if [[ $1 == *=* ]]; then
      __po_value=${1#*=}
    elif [[ $__po_is == boolean && ${2-} != @(true|false) ]]; then
      __po_value=true
    elif (($# < 2)); then
      __po_fail "$__po_typed needs a value"
    elif [[ $2 == --* ]]; then
      __po_fail "$__po_typed needs a value, not the option $2 (or write $__po_typed=$2)"
    else
      __po_value=$2
      shift
    fi
    __po_assign "$__po_typed" "$__po_name" "$__po_value" "$__po_is"
    shift
  done
  __po_rest=("$@")
}

declare -a __po_names=() __po_rest=() __po_workers=() __po_forwarded=() __po_needed=() svq_forwarded=()
declare -A __po_known=() __po_comment=() __po_default=() __po_kinds=() __po_given=() __po_shape=() \
  __po_choices=() __po_arrays=() __po_theirs=()
__po_header="" __po_note="" __po_line=${BASH_LINENO[0]}
__po_number='^-?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]+)?$'
__po_script=${BASH_SOURCE[1]:-$0}
__po_find_script "$__po_script" "$__po_line"
__po_read_script "$__po_line"
# Kinds follow the defaults, not what an earlier option on the same line has made of them.
for __po_i in ${__po_names[@]+"${__po_names[@]}"}; do __po_default[$__po_i]=${!__po_i-}; done
if [[ -n ${_forward_to+x} ]]; then
  . "${BASH_SOURCE[0]%/*}/forward.sh"
  __po_read_workers "$@"
fi
# shellcheck disable=SC2034  # for the scripts that source this
if [[ $__po_script == /* ]]; then svq_script=$__po_script; else svq_script=$PWD/$__po_script; fi
svq_argv=("$@") svq_options=(${__po_names[@]+"${__po_names[@]}"})
__po_parse "$@"
if [[ -n ${_forward_to+x} ]]; then __po_forward; fi
svq_arguments=(${__po_rest[@]+"${__po_rest[@]}"})
set -- ${__po_rest[@]+"${__po_rest[@]}"}
unset __po_names __po_rest __po_workers __po_forwarded __po_needed __po_known __po_comment __po_default __po_kinds \
  __po_given __po_shape __po_choices __po_arrays __po_theirs __po_header __po_note __po_line __po_number \
  __po_script __po_i
