#!/usr/bin/env bash
# Writes the tables and plots of all systems, results.tsv and report.html, from their score files.
#
# Usage: steps/report.sh [options] <data> <exp>
#   e.g. steps/report.sh --systems "teacher teacher_kmqat4" --trials "data/test/trials" data exp
# Reads <exp>/<system>/{scores,summary.json,curves.csv,provenance.yaml} and the quantized models.
# Names a missing file together with the stage that makes it.
set -euo pipefail
cmd=run.py    # dispatcher
paper_table=  # title of table.md and table.tex, with the columns of table III of Liu et al.; empty: write neither
out=          # folder of results.tsv and report.html; empty: <exp>
_forward_to=("svq.bin.report but exp data results html" "svq.bin.results_md only conf")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "${0%"${0##*/}"}../path.sh"
. "$SVQ_ROOT/utils/step.sh"

(($# == 2)) || { echo "report.sh: needs <data> <exp> (--help says more)" >&2; exit 2; }
data=$1 exp=$2
out=${out:-$exp}

. "$SVQ_ROOT/steps/lists.sh"
ins=()
for system in $systems; do
  ins+=(--in "$exp/$system/summary.json")
  for list in $trials; do
    name_list "${list#"$data/"}"
    for backend in $backends; do
      for norm in $norms; do ins+=(--in "$exp/$system/scores/$name/${backend}_$norm.llr"); done
    done
  done
done
if [[ -n $paper_table ]]; then ins+=(--out "$out/table.md"); fi
step "${ins[@]}" --out "$out/results.tsv" --out "$out/report.html"

$cmd "$out/log/report.log" python3 -m svq.bin.report "${to_report[@]}" --data "$data" --exp "$exp" \
  --results "$out/results.tsv" --html "$out/report.html"
if [[ -n $paper_table ]]; then
  if [[ ! -e $out/table.md ]]; then
    printf '# %s\n\n<!-- results:begin -->\n<!-- results:end -->\n' "$paper_table" > "$out/table.md"
  fi
  python3 -m svq.bin.results_md "${to_results_md[@]}" --results "$out/results.tsv" --exp "$exp" --layout paper \
    --into "$out/table.md" --latex "$out/table.tex"
fi
