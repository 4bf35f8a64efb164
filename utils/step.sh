# shellcheck shell=bash
# Sourced by a script after parse_options.sh and path.sh. The script says in one place what it reads and makes, and is
# skipped if that is up to date, whether run.sh or a user starts it.
#
#   (($# == 2)) || { echo "count.sh: needs <data-dir> <out>" >&2; exit 2; }
#   step --in "$1/utt2spk" --out "$2"
#   wc -l < "$1/utt2spk" > "$2"                 # only where $2 is not up to date
#
# The options are those of utils/once.py: --in, --maybe, --config, --speech, --out, --stamp, --neutral, --dear, and
# --piece for work in parts. The array `pieces` then names the parts that are not up to date; names hold no blanks.
# The stamp holds the name of the script, the values of all options of the script and its workers but the neutral ones
# and, without pieces, its arguments. (An option that lists the pieces is neutral: adding a piece redoes no other.)
# SVQ_FORCE=1 does the work in any case, SVQ_DRY_RUN=1 only says what would be done.

# step OPTIONS: returns if the work is to be done, else ends the script.
step() {
  if [[ -n ${SVQ_IN_STEP-} ]]; then             # once.py started this, see below
    unset SVQ_IN_STEP
    export SVQ_STEP_CMD=${cmd-}                 # the dispatcher's options from the user, which win over the step's
    # shellcheck disable=SC2034                   # for the script
    read -ra pieces <<< "${SVQ_PIECES-}"
    unset SVQ_PIECES
    return 0
  fi
  local name said=(--said "${0##*/}")
  for name in "${svq_options[@]}"; do said+=(--said "--${name//_/-}=${!name-}"); done
  for name in ${svq_forwarded[@]+"${svq_forwarded[@]}"}; do said+=(--said "$name"); done
  if [[ " $* " != *" --piece "* ]]; then
    for name in ${svq_arguments[@]+"${svq_arguments[@]}"}; do said+=(--said "$name"); done
  fi
  if [[ -n ${SVQ_REQUESTS-} ]]; then           # a dry run of run.sh, which answers at its end
    printf '%s\0' once "${said[@]}" "$@" -- bash "$0" ${svq_argv[@]+"${svq_argv[@]}"} $'\x1e' >> "$SVQ_REQUESTS"
    exit 0
  fi
  # This very process becomes once.py, which starts the script again where there is work to do.
  SVQ_IN_STEP=1 exec python3 -I -S "$SVQ_ROOT/utils/once.py" "${said[@]}" "$@" -- bash "$0" ${svq_argv[@]+"${svq_argv[@]}"}
}

# fresh FOLDER: keeps what a killed run of this work left in FOLDER, so that the work goes on from there. Removes the folder
# if recordings, archives or code have changed since (utils/once.py tells), or if all is to be done anew.
fresh() {
  local folder=. note
  if [[ $1 == */* ]]; then folder=${1%/*}; fi
  note=$folder/.inputs.${1##*/}
  if [[ -n ${SVQ_ANEW-} || ( -e $note && $(< "$note") != "$SVQ_INPUTS" ) ]]; then rm -rf -- "$1"; fi
  mkdir -p -- "$folder"
  printf '%s\n' "$SVQ_INPUTS" > "$note.tmp"
  mv -f -- "$note.tmp" "$note"
}
