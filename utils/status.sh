#!/usr/bin/env bash
# Says how each piece of work of an experiment stands: running (how far, on which host or as which job), failed,
# interrupted, stale (and what has changed), or done; since when; the last line of its log; its space on disk.
# Usage: utils/status.sh [options] [folder ...]
#   e.g. utils/status.sh exp
#
# A folder is one that run.sh writes into, by default exp; data directories may be given, too. Changes nothing, and works
# during a run. Does not notice changed options or code: `run.sh --dry-run` does.
set -euo pipefail
all=false  # true: also print a line for each piece that is done
. "${0%"${0##*/}"}../utils/parse_options.sh"

exec python3 -I -S "${0%"${0##*/}"}../utils/status.py" --all "$all" "${@:-exp}"
