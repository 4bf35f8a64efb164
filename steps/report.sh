#!/usr/bin/env bash
# Tables and plots, results.tsv and report.html, from the score files of all systems.
#
# Usage: steps/report.sh [options] <data> <exp>
#   e.g. steps/report.sh --systems "teacher teacher_kmqat4" --trials "data/test/trials" data exp
# Reads <exp>/<system>/{scores,summary.json,curves.csv,provenance.yaml} and the quantized models.
# A file that is missing is named together with the stage that makes it.
set -euo pipefail
cmd=run.py                  # dispatcher
systems="teacher student teacher_kmqat4"  # folders under <exp>
trials="data/dev/trials data/test/trials data/test/trials_all"  # lists, in <data> or as given
backends="cosine plda"      # back ends
norms="none asnorm"         # score normalizations
plot_backend=               # back end of headline and plots; empty: the first
plot_norm=                  # score normalization of these; empty: the last
bootstrap=200               # resamplings of the speakers for the interval of the EER; 0: no interval
seed=0                      # seed of these
title="Speaker verification results"  # title of the page
paper_table=                # title of table.md and table.tex, in the columns of Liu et al., table III; empty: neither
out=                        # folder of results.tsv and report.html; empty: <exp>
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

read -ra system_list <<< "$systems"
read -ra trial_list <<< "$trials"
read -ra backend_list <<< "$backends"
read -ra norm_list <<< "$norms"
$cmd "$out/log/report.log" python3 -m svq.bin.report --data "$data" --exp "$exp" \
  --systems "${system_list[@]}" --trials "${trial_list[@]}" --backends "${backend_list[@]}" \
  --norms "${norm_list[@]}" --bootstrap "$bootstrap" --seed "$seed" --title "$title" \
  --plot-backend "$plot_backend" --plot-norm "$plot_norm" \
  --results "$out/results.tsv" --html "$out/report.html"
if [[ -n $paper_table ]]; then
  if [[ ! -e $out/table.md ]]; then
    printf '# %s\n\n<!-- results:begin -->\n<!-- results:end -->\n' "$paper_table" > "$out/table.md"
  fi
  python3 -m svq.bin.results_md --results "$out/results.tsv" --exp "$exp" --layout paper --into "$out/table.md" \
    --latex "$out/table.tex"
fi
