#!/usr/bin/env bash
# Tables and plots: <exp>/results.tsv and <exp>/report.html from the score files of all systems.
#
# Usage: steps/report.sh [options] <data> <exp>
#   e.g. steps/report.sh --systems "teacher teacher_4bit" --trials "data/test/trials" data exp
# Reads <exp>/<system>/{scores,summary.json,curves.csv,provenance.yaml} and the quantized models.
# A file that is missing is named together with the stage that makes it.
set -euo pipefail
cmd=run.py                  # dispatcher
systems="teacher student teacher_4bit student_4bit"  # folders under <exp>
trials="data/dev/trials data/test/trials data/test/trials_all"  # lists, in <data> or as given
backends="cosine plda"      # back ends
norms="none asnorm"         # score normalizations
plot_backend=               # back end of headline and plots; empty: the first
plot_norm=                  # score normalization of these; empty: the last
bootstrap=200               # resamplings of the speakers for the interval of the EER; 0: no interval
seed=0                      # seed of these
title="Speaker verification results"  # title of the page
. utils/parse_options.sh
. ./path.sh

(($# == 2)) || { echo "report.sh: needs <data> <exp> (--help says more)" >&2; exit 2; }
data=$1 exp=$2

read -ra system_list <<< "$systems"
read -ra trial_list <<< "$trials"
read -ra backend_list <<< "$backends"
read -ra norm_list <<< "$norms"
$cmd "$exp/log/report.log" python3 -m svq.bin.report --data "$data" --exp "$exp" \
  --systems "${system_list[@]}" --trials "${trial_list[@]}" --backends "${backend_list[@]}" \
  --norms "${norm_list[@]}" --bootstrap "$bootstrap" --seed "$seed" --title "$title" \
  --plot-backend "$plot_backend" --plot-norm "$plot_norm"
