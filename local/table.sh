#!/usr/bin/env bash
# Runs the systems of a table and puts them side by side: <exp>/<table>_<network>/{results.tsv,report.html}, and table.md
# and table.tex with the columns of Liu et al., table III. Trains the systems that are missing.
#
# Usage, in a recipe's folder: local/table.sh <table> <network> [options of run.sh]
#                              local/table.sh <table of a paper> [options of run.sh]
#                              local/table.sh <name> "<system> ..." [options of run.sh]
#   e.g. local/table.sh quantization teacher --backends cosine --norms asnorm
#        local/table.sh table_3 --num-gpus 8 --dry-run true
#        local/table.sh low_bits "teacher teacher_kmqat2 teacher_mixed2" --backends cosine
#
# Tables of a paper, with its networks and its rows, for egs/voxceleb. Those of Liu et al. are scored as in the paper: by
# cosine and AS-norm with 600 impostors, the training speakers closest to a recording:
#   table_1       table I: retention ratios of KMQAT at 4 bits, ResNet34
#   table_2       table II: asymmetric and symmetric rescaling of KMQAT at 4 bits, ResNet34
#   table_3       table III: ResNet34 and ResNet101, in float, uniform, KMQAT, mixed and binary
#   table_4       table IV: the same for DF-ResNet110 and DF-ResNet179
#   table_5       table V: light systems on Vox1-H
#   low_bit_errors  arXiv 2606.08078: ResNet-36 and ResNet-200 at 4, 3 and 2 bits, the effect on scores and layers, and
#                 cascades from 2 bits to float; in egs/cnceleb, after egs/voxceleb, the same systems out of their domain
#   teachers      arXiv 2303.01125: an x-vector, an E-TDNN, an ECAPA-TDNN and a D-TDNN, each teaching its levels
#
# Tables of any network:
#   quantization  tables III and V of Liu et al.: every quantizer and bit width, mixed precision, the binary quantizers,
#                 and our own methods; the control finetuned in float, and each method before finetuning
#   retention     table I: KMQAT at 4 bits with levels fitted to 100, 90 and 80 % of the weights (step 1 of section III-B
#                 read as parts of equally many weights), the other reading (parts of equal width), and plain k-means
#   rescaling     table II: KMQAT at 4 bits with asymmetric (eq. 6) and symmetric (eq. 7) rescaling
#   mixed         what makes mixed precision at 2 bits work: the same bits finetuned all at once in place of algorithm 1,
#                 and exact bits for every layer in place of bits that fall with the Hessian trace
#   stages        what each stage of a ResNet18 loses at 2 bits: finetuned with one stage at a time left in float
#   ptq           without training (arXiv 2407.08991): integer grids of 8 to 3 bits; 8 bits with the blocks in float that
#                 an EER budget chooses, or, for an ECAPA-TDNN, its later SE-Res2Blocks; INT8 arithmetic
#   distillation  several levels of a teacher (arXiv 2303.01125): each alone, concatenations, the same students with
#                 labels only, and two of them at 2 bits, finetuned with labels and towards their own embeddings
set -euo pipefail
if [[ ${1-} == --help ]]; then sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"; exit 0; fi
table=${1-} systems=() options=()                 # options of run.sh, put before those that were given
of_liu=(--backends cosine --norms asnorm --top-n 600)
case $table in                                    # tables of a paper
  table_1) systems=(teacher teacher_kmqat4-{r100,count,r80}) options=("${of_liu[@]}") ;;
  table_2) systems=(teacher teacher_kmqat4{-asymmetric,}) options=("${of_liu[@]}") ;;
  table_3 | table_4)
    nets=(teacher resnet101) options=("${of_liu[@]}")
    if [[ $table == table_4 ]]; then nets=(dfresnet{110,179}); fi
    for net in "${nets[@]}"; do
      systems+=("$net" "${net}_"{{uniform,kmqat}{4,3,2,1},mixed{3,2,1.7,1.3,1.1},static,adaptive})
    done ;;
  table_5)
    options=("${of_liu[@]}" --trials "dev/trials vox1/trials_H")
    systems=(dfresnet179{,_mixed2} resnet101{,_mixed1.7} dfresnet110{,_mixed2,_kmqat2,_mixed1.3} {thin,fast}resnet34 ecapalite
      teacher{,_kmqat{4,3,2,1},_pot4,_apot{4,3,2},_admm6,_twn,_mixed{3,2},_adaptive,_static}) ;;
  low_bit_errors)
    systems=(resnet{36,200}{,_kmqat{4,3,2}})
    options=(--analysis "resnet36 resnet200" --ladders "resnet36_kmqat2:resnet36 resnet200_kmqat2:resnet200")
    # egs/cnceleb has no settings of networks, so it analyses scores alone.
    if [[ -d conf ]]; then options+=(--analysis-rows "kmqat4 kmqat3 kmqat2"); fi ;;
  teachers)
    systems=(student-labels)
    for net in xvector etdnn ecapa dtdnn; do
      systems+=("$net" "student-$net-"{utterance,narrowBN,wideBN,{sp,lde}-aggr,utterance+narrowBN+sp-aggr+lde-aggr})
    done ;;
esac
if ((${#systems[@]})); then
  shift
elif ! { (($# >= 2)) && [[ $table =~ ^[A-Za-z0-9_.-]+$ && $2 != -* ]]; }; then
  echo "table.sh: needs <table> <network>, <table of a paper> or <name> \"<systems>\" (--help says more)" >&2
  exit 2
fi
[[ -e run.sh ]] || { echo "table.sh: no run.sh here; call it in a recipe's folder" >&2; exit 2; }
if ((${#systems[@]})); then exec bash run.sh --systems "${systems[*]}" --table "$table" "${options[@]}" "$@"; fi

net=$2
shift 2
given() {                                         # given NAME DEFAULT: prints the value of an option of run.sh
  local value=$2 word last=
  for word in "${words[@]}"; do
    case $last:$word in *:--"$1"=*) value=${word#*=} ;; --"$1":*) value=$word ;; esac
    last=$word
  done
  printf '%s' "$value"
}
words=("$@")
settings=$(given conf conf)/$net.yaml             # settings of the network, or config.yaml of one made elsewhere
[[ -e $settings ]] || settings=$(given exp exp)/$net/config.yaml
before=()                                         # rows that are also run without finetuning
case $table in
  quantization)
    before=(uniform{4,3,2,1} kmqat{4,3,2,1} kmqat{4,3,2}-{width,count} mixed{3,2,1.7,1.3,1.1} static adaptive pot4
      apot{4,3,2} twn admm6 best{4,3,2,1} calibrated{4,3,2,1})
    rows=(float "${before[@]}") ;;
  retention) rows=(kmqat4-r100 kmqat4-count kmqat4-r80 kmqat4-width kmqat4) ;;
  rescaling) rows=(kmqat4-asymmetric kmqat4) ;;
  mixed) rows=(kmqat2 mixed2-onestage mixed2 mixed2-exact best2) ;;
  stages)
    if [[ -e $settings ]] && ! grep -q '^ *arch: ResNet18' "$settings"; then
      echo "table.sh: $settings is no ResNet18, whose stages the rows kmqat2-* name" >&2
      exit 2
    fi
    rows=(float kmqat2 kmqat2-{conv1,stage1,stage2,stage3,stage4,embedding}) ;;
  ptq)
    rows=() before=(integer8 selected8 integer6 integer4 integer3)
    if grep -qs 'arch: *ECAPA' "$settings"; then before+=(selective8); fi ;;
  *) rows=() ;;
esac
case $table in
  distillation)
    systems="$net student-labels student-labels-wide"
    for row in utterance narrowBN wideBN {sp,lde}-aggr {narrowBN,wideBN,sp-aggr}-mn utterance+{narrowBN,wideBN,sp-aggr} \
      narrowBN+wideBN utterance+narrowBN+wideBN utterance+narrowBN+sp-aggr+lde-aggr; do
      systems+=" student-$net-$row"
    done
    for row in utterance utterance+narrowBN; do systems+=" student-$net-${row}_kmqat2 student-$net-${row}_kmqat2-distil"; done ;;
  quantization | retention | rescaling | mixed | stages | ptq)
    systems=$net
    if [[ $table == ptq ]]; then systems+=" $net-int8"; fi
    for row in ${rows[@]+"${rows[@]}"}; do systems+=" ${net}_$row"; done
    for row in ${before[@]+"${before[@]}"}; do systems+=" ${net}_$row-ptq"; done ;;
  *) systems=$net net="" ;;
esac
exec bash run.sh --systems "$systems" --table "$table${net:+_$net}" "$@"
