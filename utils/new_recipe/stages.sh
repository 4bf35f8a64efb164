if stage 0 "the data directories that are given"; then
  for given in "$train_data" "$test_data" ${dev_data:+"$dev_data"}; do
    need "$given/utt2spk" "say at the top of run.sh where your data directories are"
    need "$given/wav.scp" "say at the top of run.sh where your data directories are"
  done
  for list in "$test_trials" ${dev_trials:+"$dev_trials"}; do need "$list" "say at the top of run.sh where your trial list is"; done
fi

if stage 1 "data directories"; then
  tables=() lists=() made=()
  for given in "$train_data" "$test_data" ${dev_data:+"$dev_data"}; do
    for file in "$given"/*; do
      if [[ -f $file && $file != "$given"/trials* ]]; then tables+=(--in "$file"); fi
    done
  done
  for given in "$test_data" ${dev_data:+"$dev_data"}; do
    for file in "$given"/trials_*; do
      if [[ -e $file ]]; then lists+=(--in "$file") made+=(--out "$data/$([[ $given == "$test_data" ]] && echo test || echo dev)/${file##*/}"); fi
    done
  done
  prepare=(local/prepare_data.sh --train-data "$train_data" --test-data "$test_data" --dev-data="$dev_data"
    --test-trials "$test_trials" --dev-trials="$dev_trials" --dev-speakers "$dev_speakers" --dev-utts "$dev_utts"
    --root "$root" --noise="$noise" --rir="$rir" --data "$data")
  once "${tables[@]}" --out "$data/train" --out "$data/dev" --out "$data/test" --stamp "$data/.done.prepare" -- \
    "${prepare[@]}" --part directories
  once --in "$data/test/utt2spk" --in "$data/dev/utt2spk" --in "$test_trials" ${dev_trials:+--in "$dev_trials"} \
    ${lists[@]+"${lists[@]}"} --out "$data/test/trials" --out "$data/dev/trials" ${made[@]+"${made[@]}"} -- \
    "${prepare[@]}" --part trials
  once utils/validate_data_dir.sh --remember true --nj "$nj" "$data/train" "$data/dev" "$data/test"
  if [[ $speed_perturb == true ]]; then
    once utils/perturb_data_dir_speed_3way.sh "$data/train" "$data/train_sp"
  fi
  need_lists
fi
# Copies at another speed are lines of wav.scp that run SoX. Stage 1 has refused your own lists that run commands, unless you
# allow them by SVQ_ALLOW_PIPES=true.
export SVQ_ALLOW_PIPES=${SVQ_ALLOW_PIPES:-true}

