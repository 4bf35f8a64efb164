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
#     once --in 2:data/train --in conf/teacher.yaml --out $exp/teacher/model.safetensors -- \
#       steps/train.sh --cmd "$cuda_cmd" conf/teacher.yaml data/train $exp/teacher
#   fi
#   ...
#   stages_done
#
# The body of a stage holds nothing but `once` commands (and loops and conditions around them):
# with --dry-run they print what they would do.

# shellcheck disable=SC2154   # the options come from run.sh
_svq_refuse() { printf '%s: %s\n' "${0##*/}" "$2" >&2; exit "$1"; }

(($# == 0)) || _svq_refuse 2 "takes options only, not '$1' (--help lists them)"
for _svq_name in stage stop_stage; do
  [[ ${!_svq_name} =~ ^(0|[1-9][0-9]{0,8})$ ]] ||
    _svq_refuse 2 "--${_svq_name//_/-} takes the number of a stage, not '${!_svq_name}'"
done
((stage <= stop_stage)) ||
  _svq_refuse 2 "--stage $stage is after --stop-stage $stop_stage: nothing to do"

# The lock is the kernel's, on a file descriptor that all commands started from here inherit: it is
# free when the last of them is gone, however they ended. They end soon after this script does
# (utils/guard.py), hence the wait.
if [[ $dry_run != true ]]; then
  mkdir -p -- "$exp" || exit 1
  exec {_svq_lock}<>"$exp/.lock" || exit 1
  if ! flock -w 3 "$_svq_lock"; then
    command -v flock > /dev/null || _svq_refuse 1 "needs the program flock (package util-linux)"
    _svq_holder=unknown
    IFS= read -r _svq_holder < "$exp/.lock" || true
    _svq_refuse 1 "$exp is in use by another run ($_svq_holder): wait for it, or choose another --exp"
  fi
  printf -v _svq_now '%(%Y-%m-%d %H:%M:%S)T' -1
  printf 'pid %d on %s since %s\n' $$ "$HOSTNAME" "$_svq_now" > "$exp/.lock"
fi

_svq_planned="" _svq_current="" _svq_made=0 _svq_skipped=0 _svq_began=$SECONDS
_svq_at_a_time=1 _svq_running=0

# stage NUMBER TITLE: true where the stage is among those to run.
stage() {
  _svq_current=$1
  (($1 >= stage && $1 <= stop_stage)) || return 1
  local now
  printf -v now '%(%H:%M:%S)T' -1
  printf '[%s] stage %s: %s\n' "$now" "$1" "$2"
}

# once OPTIONS -- COMMAND: utils/once.py with this run's --dry-run and --force.
once() {
  local code=0 flags=() me=$BASHPID      # the parent's pid: for once.py to notice that it has just died
  [[ $dry_run != true ]] || flags+=(--dry-run)
  [[ $force != true ]] || flags+=(--force)
  if ((_svq_at_a_time > 1)) && [[ $dry_run != true ]]; then
    ((_svq_running < _svq_at_a_time)) || _svq_wait_for_one || { code=$?; all_done || true; return "$code"; }
    # A simple command in the background is a child of this shell itself, so it dies with it.
    SVQ_PLANNED=$_svq_planned SVQ_PARENT_PID=$me \
      python3 -I -S "$SVQ_ROOT/utils/once.py" --tell "${flags[@]}" "$@" &
    _svq_running=$((_svq_running + 1))
    return
  fi
  # -I -S: start without site-packages, in 10 ms.
  SVQ_PLANNED=$_svq_planned SVQ_PARENT_PID=$me \
    python3 -I -S "$SVQ_ROOT/utils/once.py" --tell "${flags[@]}" "$@" || code=$?
  _svq_count "$code" || return
  ((code == 10)) || return 0
  while (($#)) && [[ $1 != -- ]]; do      # what later stages may count on, in a dry run
    case $1 in
      --out) _svq_planned+=$2$'\n'; shift ;;
      --out=*) _svq_planned+=${1#--out=}$'\n' ;;
      --in | --stamp | --neutral) shift ;;
    esac
    shift
  done
}

# at_a_time N: the `once` commands up to all_done run N at a time; none may need what another makes.
at_a_time() { _svq_at_a_time=$1; }

# Waits for what at_a_time has started. Where a command fails no new one starts and the others finish.
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

# _svq_count CODE: counts a finished `once` by its exit status, or says that the stage failed.
_svq_count() {
  case $1 in
    0) _svq_skipped=$((_svq_skipped + 1)) ;;
    10) _svq_made=$((_svq_made + 1)) ;;
    *)
      printf '%s: stage %s failed; once that is mended, go on with --stage %s\n' \
        "${0##*/}" "$_svq_current" "$_svq_current" >&2
      return "$1" ;;
  esac
}

# The last line of run.sh.
stages_done() {
  if [[ $dry_run == true ]]; then
    printf 'dry run: %d to make, %d up to date; nothing was touched\n' "$_svq_made" "$_svq_skipped"
  else
    printf 'done in %d s: %d made, %d up to date\n' $((SECONDS - _svq_began)) "$_svq_made" "$_svq_skipped"
  fi
}
