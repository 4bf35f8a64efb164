#!/usr/bin/env bash
# Lists what can be made again in an experiment's folder, with sizes, and removes it with --yes true: archives of
# embeddings and of teachers' levels, checkpoints of finished trainings, caches of analyses; with --data also features.
# Usage: utils/clean.sh [options] [exp]
#   e.g. utils/clean.sh exp
#        utils/clean.sh --data data --yes true exp
#
# Models, heads, settings, packed files, scores and reports stay. So do work that is not finished and files that no
# stamp tells of. After it run.sh finds all up to date, and makes an archive again where something reads it that is not.
# It is refused while a run has the folder. Data directories may be shared: let no other experiment run that reads them.
set -euo pipefail
yes=false  # remove what is listed
data=      # folders of data directories whose features are removed, too; empty: none
. "${0%"${0##*/}"}../utils/parse_options.sh"

(($# <= 1)) || { echo "clean.sh: takes one folder (--help says more)" >&2; exit 2; }
exec python3 -I -S "${0%"${0##*/}"}../utils/clean.py" --data "$data" --yes "$yes" "${1:-exp}"
