#!/usr/bin/env bash
# Says how every piece of work of an experiment stands: running (how far, on which host or as which job), failed,
# interrupted, stale (what has changed since), done; since when, the log's last line, the space on disk.
# Usage: utils/status.sh [options] [folder ...]
#   e.g. utils/status.sh exp
#
# The folder, exp where none is given, is one that run.sh writes into; data directories may be given, too. Nothing is
# touched, and a run may be going on. Options and code that have changed since only `run.sh --dry-run` knows.
set -euo pipefail
all=false  # also a line for each piece that is done
. "${0%"${0##*/}"}../utils/parse_options.sh"

exec python3 -I -S "${0%"${0##*/}"}../utils/status.py" --all "$all" "${@:-exp}"
