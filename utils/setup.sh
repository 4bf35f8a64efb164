#!/usr/bin/env bash
# Makes .venv with the pinned packages of utils/requirements.txt, and checks that SoX is there.
# path.sh calls this the first time, and again when the list has changed. After a set-up that was
# killed, the next one keeps every complete package and installs the rest. Of two set-ups at once,
# one waits for the other.
#
# Usage: utils/setup.sh [--extras "test deploy"] [--with "ffmpeg npm chromium"]
#
# SVQ_PYTHON names the Python to use. Without it, that is the first of python3, python3.14 ... python3.10
# with a version from 3.10 to 3.14. pip takes its settings as always (pip.conf, PIP_... variables). As root
# this installs system programs by the package manager of the system; else it says what to type.
#
# PyPI's torch for Linux brings CUDA along. If the machine has neither an NVIDIA card nor Slurm, and the
# settings of pip name no index, the CPU build is installed instead. SVQ_TORCH=cuda always installs the
# build of PyPI, SVQ_TORCH=cpu always the CPU build.
set -euo pipefail
extras=     # more packages: test (for tests/run.sh), deploy (ONNX, OpenVINO, Optuna)
with=       # more system programs: ffmpeg (VoxCeleb2 is published as m4a), npm (steps/make_demo.sh gets its runtime by it),
            # chromium (to test the page of steps/make_demo.sh)
ROOT=$(readlink -f -- "${BASH_SOURCE[0]}")
ROOT=${ROOT%/utils/*}
. "$ROOT/utils/parse_options.sh"

say() { printf 'setup.sh: %s\n' "$1" >&2; }
fail() { say "$1"; exit 1; }

# packages_of MANAGER PROGRAM: prints the system packages that bring a program.
packages_of() {
  case $1:$2 in
    apt-get:sox) echo sox libsox-fmt-base ;;
    apt-get:python) echo python3 python3-venv ;;
    apt-get:venv) echo python3-venv ;;
    dnf:ffmpeg) echo ffmpeg-free ;;
    dnf:npm) echo nodejs-npm ;;
    pacman:python) echo python ;;
    *:python | *:venv) echo python3 ;;
    *) echo "$2" ;;
  esac
}

# install_program NAME: installs it by the package manager; where it cannot, says what to type and returns 1.
install_program() {
  local manager line=() packages
  for manager in apt-get dnf apk pacman; do
    command -v "$manager" > /dev/null || continue
    read -ra packages <<< "$(packages_of "$manager" "$1")"
    case $manager in
      apt-get) line=(apt-get install -y "${packages[@]}") ;;
      dnf) line=(dnf install -y "${packages[@]}") ;;
      apk) line=(apk add "${packages[@]}") ;;
      pacman) line=(pacman -S --noconfirm "${packages[@]}") ;;
    esac
    if [[ $(id -u) != 0 ]]; then
      say "$1 is missing; type: sudo ${line[*]}"
      return 1
    fi
    say "installing $1: ${line[*]}"
    case $manager in
      apt-get)      # an old list names files that are gone from the mirrors
        DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || true
        DEBIAN_FRONTEND=noninteractive "${line[@]}" -qq --no-install-recommends < /dev/null >&2 && return 0 ;;
      pacman) pacman -Sy >&2 && "${line[@]}" < /dev/null >&2 && return 0 ;;
      *) "${line[@]}" < /dev/null >&2 && return 0 ;;
    esac
    say "$1 could not be installed; type, as root: ${line[*]}"
    return 1
  done
  say "$1 is missing and no package manager was found: install $1 by hand"
  return 1
}

is_usable() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2> /dev/null
}
can_make_venv() { "$1" -c 'import ensurepip, venv' 2> /dev/null; }

# Sets PYTHON to one that can make a virtual environment. Returns 1 where there is no Python, 2 where none has venv.
find_python() {
  local candidate found=1
  PYTHON=
  for candidate in "${SVQ_PYTHON:-python3}" ${SVQ_PYTHON:+""} python3.14 python3.13 python3.12 \
    python3.11 python3.10; do
    [[ -n $candidate ]] || break                 # SVQ_PYTHON, or none
    { command -v "$candidate" > /dev/null && is_usable "$candidate"; } || continue
    found=2
    if can_make_venv "$candidate"; then
      PYTHON=$candidate
      return 0
    fi
  done
  return $found
}

choose_python() {
  local status=0 lacking
  find_python || status=$?
  ((status != 0)) || return 0
  if [[ -n ${SVQ_PYTHON-} ]]; then
    ((status == 1)) && fail "SVQ_PYTHON=$SVQ_PYTHON is not a Python from 3.10 to 3.14"
    fail "SVQ_PYTHON=$SVQ_PYTHON lacks the modules venv and ensurepip"
  fi
  lacking=python
  ((status == 1)) || lacking=venv
  install_program "$lacking" || fail "no Python from 3.10 to 3.14 that can make virtual environments"
  find_python ||
    fail "the system's Python is not one from 3.10 to 3.14 with venv: name another one with SVQ_PYTHON"
}

# The index of torch's CPU builds, and the seconds that it may take to answer; an index that does not is not used.
CPU_BUILDS=https://download.pytorch.org/whl/cpu
ANSWER_SECONDS=5

has_nvidia_card() { [[ -e /dev/nvidiactl || -e /dev/dxg ]] || command -v nvidia-smi > /dev/null; }

# Says whether pip's settings name an index: if so, packages come from there, and no other index is added.
pip_names_an_index() {
  local settings
  settings=$("$VENV/bin/python3" -m pip config list 2> /dev/null) || return 1
  [[ $settings == *index-url=* || $settings == *no-index=* ]]
}

torch_is_there() {
  local pin
  pin=$(< "$ROOT/utils/requirements.txt")
  pin=${pin#*torch==}
  compgen -G "$VENV/lib/python3*/site-packages/torch-${pin%%$'\n'*}*.dist-info" > /dev/null
}

answers() {
  "$VENV/bin/python3" -c 'import signal, sys, urllib.request
signal.alarm(int(sys.argv[2]))
urllib.request.urlopen(sys.argv[1], timeout=int(sys.argv[2]))' "$1/torch/" "$ANSWER_SECONDS" 2> /dev/null
}

# Sets INDEX to the option of pip that brings torch for the CPU, or to nothing; says what will be downloaded.
choose_torch() {
  INDEX=()
  if torch_is_there; then return; fi
  case ${SVQ_TORCH:-auto} in
    cuda) ;;
    cpu) INDEX=(--extra-index-url "$CPU_BUILDS") ;;
    auto)
      if pip_names_an_index; then
        say "packages come from where pip's settings say: 0.3 GB to download if torch is a CPU build there, with CUDA 3 GB"
        return
      fi
      # The login node of a cluster may have no card although other nodes have one.
      if ! has_nvidia_card && ! command -v sbatch > /dev/null; then
        if answers "$CPU_BUILDS"; then INDEX=(--extra-index-url "$CPU_BUILDS"); else say "$CPU_BUILDS does not answer"; fi
      fi ;;
    *) fail "SVQ_TORCH=$SVQ_TORCH is not one of auto, cpu, cuda" ;;
  esac
  if ((${#INDEX[@]})); then
    say "torch for the CPU: 0.3 GB to download, 1.3 GB on disk, about 2 minutes (SVQ_TORCH=cuda takes the build for NVIDIA cards)"
  else
    say "torch with CUDA: 3 GB to download, 6 GB on disk, about 10 minutes (SVQ_TORCH=cpu takes the build of 0.3 GB)"
  fi
}

# pip writes INSTALLER when all files of a package are there. A package without it was cut short, but pip would take it
# for complete.
forget_half_packages() {
  local folder
  for folder in "$VENV"/lib/python3*/site-packages/*.dist-info; do
    [[ ! -d $folder || -e $folder/INSTALLER ]] || rm -rf -- "$folder"
  done
}

# install NAME FILE [PIP-OPTION...]: installs what the list FILE names, and leaves a copy of the list in .venv.
install() {
  local done_list=$VENV/.svq-$1 quiet=(--quiet)
  [[ ! -t 2 ]] || quiet=()
  say "installing what ${2#"$ROOT"/} lists into .venv"
  : > "$VENV/.svq-unfinished"
  "$VENV/bin/python3" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} "${@:3}" -r "$2" >&2 ||
    fail "pip could not install ${2#"$ROOT"/}; its reason stands above"
  rm -f "$VENV/.svq-unfinished"
  cp -- "$2" "$done_list.new"
  mv -- "$done_list.new" "$done_list"
}
is_installed() { [[ -f $VENV/.svq-$1 && $(< "$VENV/.svq-$1") == "$(< "$2")" ]]; }

for _name in $extras; do
  [[ -f $ROOT/utils/requirements-$_name.txt ]] || fail "--extras: there is no '$_name', only: test, deploy"
done
for _name in $with; do
  [[ $_name == @(ffmpeg|npm|chromium) ]] || fail "--with: there is no '$_name', only: ffmpeg, npm, chromium"
done

VENV=$ROOT/.venv
PATH=${PATH//"$VENV/bin:"/}      # .venv must not be made from its own Python
unset PYTHONPATH PYTHONHOME

# One set-up at a time. The lock needs a file that is always there and that stays when .venv is made anew.
# The file is opened for reading and writing, but not written.
command -v flock > /dev/null || fail "needs the program flock (package util-linux)"
exec {LOCK}<> "$ROOT/utils/requirements.txt" || fail "cannot write in $ROOT"
if ! flock -n "$LOCK"; then
  say "waiting for another set-up of $ROOT"
  flock "$LOCK"
fi

if [[ $(cat -- "$VENV/.svq-unfinished" 2> /dev/null) == venv ]]; then
  say "an earlier set-up was stopped before .venv was made: making it anew"
  rm -rf -- "$VENV"
elif [[ -e $VENV || -L $VENV ]] && ! { is_usable "$VENV/bin/python3" && "$VENV/bin/python3" -c 'import pip' 2> /dev/null; }; then
  say ".venv has no Python from 3.10 to 3.14 with pip that runs: making it anew"
  rm -rf -- "$VENV"
fi
if [[ ! -e $VENV ]]; then
  choose_python
  say "making .venv with $("$PYTHON" --version 2>&1) ($(command -v "$PYTHON"))"
  mkdir -- "$VENV"
  echo venv > "$VENV/.svq-unfinished"
  "$PYTHON" -m venv "$VENV" >&2 || fail "$PYTHON -m venv failed; its reason stands above"
  rm -- "$VENV/.svq-unfinished"
fi
if [[ -e $VENV/.svq-unfinished ]]; then
  say "an earlier set-up was stopped half-way: installing again what is not whole"
  forget_half_packages
  rm -f -- "$VENV/.svq-requirements"
fi
if ! is_installed requirements "$ROOT/utils/requirements.txt"; then
  choose_torch
  install requirements "$ROOT/utils/requirements.txt" ${INDEX[@]+"${INDEX[@]}"}
fi
for _name in $extras; do
  is_installed "requirements-$_name" "$ROOT/utils/requirements-$_name.txt" ||
    install "requirements-$_name" "$ROOT/utils/requirements-$_name.txt"
done

# Most of the work can go on without SoX, so a missing one is only reported.
command -v sox > /dev/null || install_program sox || true
for _name in $with; do
  command -v "$_name" > /dev/null || install_program "$_name" || exit 1
done
