# shellcheck shell=bash
# Sourced by run.sh after parse_options.sh and path.sh: stages, stamps, the lock. run.sh has
#
#   stage=0          # first stage to run
#   stop_stage=11    # last stage to run
#   dry_run=false    # say what would be done, touch nothing
#   force=false      # redo the chosen stages, finished or not
#   exp=exp          # where results go; two runs in the same one are refused
#
# and then reads
#
#   if stage 3 "teacher"; then
#     once steps/train.sh --cmd "$cuda_cmd" conf/teacher.yaml data/train $exp/teacher
#   fi
#   ...
#   stages_done
#
# The body of a stage holds only `once` commands, and loops and conditions around them. With --dry-run they say what they
# would do. `once SCRIPT ...` runs a script that itself says what it reads and makes (utils/step.sh);
# `once --in ... --out ... -- COMMAND ...` runs any command (utils/once.py).

# shellcheck disable=SC2154   # the options come from run.sh
_svq_refuse() { printf '%s: %s\n' "${0##*/}" "$2" >&2; exit "$1"; }

(($# == 0)) ||
  _svq_refuse 2 "takes options only, not '$1': put quotes around values of several words; switches are true or false (--help)"
for _svq_name in stage stop_stage; do
  [[ ${!_svq_name} =~ ^(0|[1-9][0-9]{0,8})$ ]] ||
    _svq_refuse 2 "--${_svq_name//_/-} takes the number of a stage, not '${!_svq_name}'"
done
((stage <= stop_stage)) ||
  _svq_refuse 2 "--stage $stage is after --stop-stage $stop_stage: nothing to do"

# If the run that had the lock is dead, waits for the processes that it started: they may take SVQ_GRACE seconds to end.
_svq_wait_for_remains() {
  [[ $_svq_holder =~ ^pid\ ([0-9]+)\ on\ (.*)\ since\  ]] || return 1
  [[ ${BASH_REMATCH[2]} == "$HOSTNAME" && ! -e /proc/${BASH_REMATCH[1]} ]] || return 1
  printf 'waiting for what an earlier run left at work in %s to end\n' "$exp"
  flock -w "${SVQ_GRACE:-30}" "$_svq_lock"
}

# The kernel holds the lock, on a file descriptor that all commands started from here inherit: it is
# free when the last of them is gone, however they ended. They end soon after this script does
# (utils/guard.py), but a training writes its checkpoint first. That is why there are waits.
if [[ $dry_run != true ]]; then
  mkdir -p -- "$exp" || exit 1
  exec {_svq_lock}<>"$exp/.lock" || exit 1
  if ! flock -w 3 "$_svq_lock"; then
    command -v flock > /dev/null || _svq_refuse 1 "needs the program flock (package util-linux)"
    _svq_holder=unknown
    IFS= read -r _svq_holder < "$exp/.lock" || true
    _svq_wait_for_remains ||
      _svq_refuse 1 "$exp is in use by another run ($_svq_holder): wait for it, or choose another --exp"
  fi
  printf -v _svq_now '%(%Y-%m-%d %H:%M:%S)T' -1
  printf 'pid %d on %s since %s\n' $$ "$HOSTNAME" "$_svq_now" > "$exp/.lock"
fi

_svq_current="" _svq_made=0 _svq_skipped=0 _svq_began=$SECONDS _svq_at_a_time=1 _svq_running=0
_svq_notes=$(mktemp -d) || exit 1      # holds what a dry run plans, or the name of a missing input
_svq_watcher=
trap '_svq_end_watcher; rm -rf -- "$_svq_notes"' EXIT
export SVQ_TELL=1 SVQ_MISSING=$_svq_notes/missing SVQ_OWNER=${exp%/} SVQ_RUN=$$
[[ $SVQ_OWNER == /* ]] || SVQ_OWNER=$PWD/$SVQ_OWNER
[[ $force != true ]] || export SVQ_FORCE=1
[[ $dry_run != true ]] || export SVQ_REQUESTS=${SVQ_REQUESTS:-$_svq_notes/requests}

# _svq_plan FILE OPTION...: writes to FILE what a dry run of this very command, with these options added, asks for.
_svq_plan() {
  SVQ_REQUESTS=$1 SVQ_ASK_ONLY=1 bash "$svq_script" ${svq_argv[@]+"${svq_argv[@]}"} "${@:2}" --dry-run > /dev/null 2>&1
}

# Of the files that utils/clean.sh removed, make those again that work which is not up to date reads.
if [[ $dry_run != true && ( -e $exp/.cleaned || -e ${data-}/.cleaned ) ]]; then
  ! _svq_plan "$_svq_notes/all_requests" || python3 -I -S "$SVQ_ROOT/utils/once.py" --plan "$_svq_notes/all_requests" --needed
  rm -f -- "$_svq_notes/all_requests"
fi

# Shows the running pieces of work while this script runs (utils/progress.py). The watcher holds no lock, dies with this
# shell, and is no job that `wait -n` would see.
if [[ $dry_run != true ]]; then
  python3 -I -S "$SVQ_ROOT/utils/progress.py" "$exp" $$ {_svq_lock}>&- 2> /dev/null &
  _svq_watcher=$!
  disown "$_svq_watcher" 2> /dev/null || true
fi

# Has the watcher clear its lines off the terminal, and waits for that.
_svq_end_watcher() {
  local parent=
  [[ -n $_svq_watcher ]] || return 0
  { read -r _ _ _ parent _ < "/proc/$_svq_watcher/stat"; } 2> /dev/null || return 0
  [[ $parent == $$ ]] || return 0
  kill "$_svq_watcher" 2> /dev/null || return 0
  while [[ -t 1 && -e /proc/$_svq_watcher/fd/1 ]]; do read -rt 0.01 <> <(:) || true; done
}

# stage NUMBER TITLE: succeeds if the stage is among those to run.
stage() {
  _svq_current=$1
  (($1 >= stage && $1 <= stop_stage)) || return 1
  if [[ $dry_run == true ]]; then _svq_ask stage "$1" "$2"; return; fi
  local now
  printf -v now '%(%H:%M:%S)T' -1
  printf '[%s] stage %s: %s\n' "$now" "$1" "$2"
}

# A dry run collects what it would do; utils/once.py answers everything at the end.
_svq_ask() { printf '%s\0' "$@" $'\x1e' >> "$SVQ_REQUESTS"; }

# once SCRIPT ..., or once OPTIONS -- COMMAND ...: does a piece of work, unless it is up to date.
once() {
  local code=0 command=(bash "$@")
  if [[ $dry_run == true ]]; then
    if [[ $1 == --* ]]; then _svq_ask once "$@"; else "${command[@]}"; fi
    return
  fi
  # -I -S: start without site-packages, in 10 ms.
  if [[ $1 == --* ]]; then command=(python3 -I -S "$SVQ_ROOT/utils/once.py" "$@"); fi
  export SVQ_PARENT_PID=$BASHPID         # lets once.py notice that this shell has died
  if ((_svq_at_a_time > 1)); then
    ((_svq_running < _svq_at_a_time)) || _svq_wait_for_one || { code=$?; all_done || true; return "$code"; }
    # A simple command in the background is a child of this shell itself, so it dies with the shell.
    "${command[@]}" &
    _svq_running=$((_svq_running + 1))
    return
  fi
  "${command[@]}" || code=$?
  _svq_count "$code"
}

# need FILE WHERE: if a file that no stage makes is missing, says where to get it and stops. A dry run goes on.
need() {
  [[ ! -e $1 ]] || return 0
  if [[ $dry_run == true ]]; then _svq_ask need "$1" "$2"; return; fi
  _svq_refuse 1 "$1 is missing: $2"
}

# at_a_time N: runs the `once` commands up to all_done N at a time; none of them may need what another makes.
at_a_time() { _svq_at_a_time=$1; }

# Waits for the commands that at_a_time has started. After one fails, no new one starts and the others finish.
all_done() {
  local failed=0 code
  while ((_svq_running)); do
    _svq_wait_for_one || { code=$?; failed=$code; }
  done
  _svq_at_a_time=1
  return "$failed"
}

_svq_wait_for_one() {
  local code=0
  wait -n || code=$?
  _svq_running=$((_svq_running - 1))
  _svq_count "$code"
}

# _svq_count CODE: counts a finished `once` by its exit status; if it failed, says that the stage failed.
_svq_count() {
  case $1 in
    0) _svq_skipped=$((_svq_skipped + 1)) ;;
    10) _svq_made=$((_svq_made + 1)) ;;
    *)
      if (($1 != 3)) || ! _svq_say_maker; then
        printf '%s: stage %s failed; once that is mended, go on with --stage %s\n' \
          "${0##*/}" "$_svq_current" "$_svq_current" >&2
      fi
      return $(($1 == 3 ? 1 : $1)) ;;
  esac
}

# Says which stage makes the missing input; a dry run from the first stage finds out.
_svq_say_maker() {
  local missing maker requests=$_svq_notes/all_requests
  missing=$(< "$SVQ_MISSING") 2> /dev/null || return 1
  _svq_plan "$requests" --stage 0 || true
  maker=$(python3 -I -S "$SVQ_ROOT/utils/once.py" --plan "$requests" "$missing") || return 1
  printf '%s: %s\n' "${0##*/}" "$maker" >&2
}

# The last line of run.sh.
stages_done() {
  if [[ $dry_run == true ]]; then
    [[ -z ${SVQ_ASK_ONLY-} && -e $SVQ_REQUESTS ]] || return 0
    local code=0
    python3 -I -S "$SVQ_ROOT/utils/once.py" --plan "$SVQ_REQUESTS" || code=$?
    ((code)) || return 0
    [[ ! -e $SVQ_REQUESTS.stage ]] || _svq_current=$(< "$SVQ_REQUESTS.stage")
    _svq_count "$code"
  else
    printf 'done in %d s: %d made, %d up to date\n' $((SECONDS - _svq_began)) "$_svq_made" "$_svq_skipped"
    if [[ -e $exp/index.html ]]; then printf 'all reports: %s\n' "$(realpath -- "$exp")/index.html"; fi
  fi
}
