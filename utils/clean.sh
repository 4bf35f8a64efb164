#!/usr/bin/env bash
# Lists the files of an experiment that can be made again, with their sizes, and removes them with --yes true: archives of
# embeddings and of teachers' levels, checkpoints of finished trainings, caches of analyses; with --data also features.
# Usage: utils/clean.sh [options] [exp]
#   e.g. utils/clean.sh exp
#        utils/clean.sh --data data --yes true exp
#
# Models, heads, settings, packed files, scores and reports stay. So do unfinished work and files that no stamp tells of.
# Afterwards run.sh still finds all work up to date; it makes an archive again when work that is not up to date reads it.
# The script refuses to work while a run uses the folder. Data directories may be shared: with --data, let no other
# experiment run that reads them.
set -euo pipefail
yes=false  # true: remove what is listed
data=      # folders of data directories whose features are removed, too; empty: none
. "${0%"${0##*/}"}../utils/parse_options.sh"

(($# <= 1)) || { echo "clean.sh: takes one folder (--help says more)" >&2; exit 2; }
exec python3 -I -S "${0%"${0##*/}"}../utils/clean.py" --data "$data" --yes "$yes" "${1:-exp}"
