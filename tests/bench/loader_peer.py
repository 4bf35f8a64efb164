"""WeSpeaker's loader, by its own code, for loader.py: prints its processor seconds for a sample as JSON.

Runs in a Python that has torch, torchaudio, lmdb, kaldiio and SciPy, and in a checkout of WeSpeaker that is given; needs nothing
of svq.
"""

import argparse
import json
import os
import pickle
import random
import sys
import types
from pathlib import Path

import lmdb
import numpy as np
import torch
from torch.utils.data import DataLoader

CONFIG = {
    "shuffle": True, "shuffle_args": {"shuffle_size": 250}, "filter": True,
    "filter_args": {"min_num_frames": 100, "max_num_frames": 800}, "resample_rate": 16000, "speed_perturb": True, "num_frms": 200,
    "aug_prob": 0.6, "fbank_args": {"num_mel_bins": 80, "frame_shift": 10, "frame_length": 25, "dither": 1.0},
}


def tables(root, form):
    return [dict(line.split(maxsplit=1) for line in (root / f"data_{form}" / name).read_text().splitlines())
            for name in ("wav.scp", "utt2spk")]


def write_lmdb(root, name):
    """As its tools write clips: their files' bytes by id."""
    path = root / f"{name}.lmdb"
    if path.exists():
        return str(path)
    db = lmdb.open(str(path), map_size=1 << 32)
    wav, _ = tables(root, name)
    with db.begin(write=True) as txn:
        for key, file in wav.items():
            txn.put(key.encode(), Path(file).read_bytes())
        txn.put(b"__keys__", pickle.dumps(list(wav)))
    db.close()
    return str(path)


def data_list(root, kind, form):
    path = root / f"{form.replace(' ', '_')}.list"
    if kind == "shard":
        lines = sorted(str(tar) for tar in (root / f"tars_{form.split()[1]}").glob("*.tar"))
    else:
        wav, utt2spk = tables(root, form)
        lines = [json.dumps({"key": key, "wav": file, "spk": utt2spk[key]}) for key, file in wav.items()]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def main():
    arguments = argparse.ArgumentParser()
    for name in ("wespeaker", "root", "kind", "form"):
        arguments.add_argument(f"--{name}", required=True)
    for name in ("batches", "batch-size", "seed"):
        arguments.add_argument(f"--{name}", type=int, required=True)
    options = arguments.parse_args()
    package = types.ModuleType("wespeaker")  # its own __init__ wants all that its command line needs
    package.__path__ = [os.path.join(options.wespeaker, "wespeaker")]
    sys.modules["wespeaker"] = package
    from wespeaker.dataset.dataset import Dataset
    from wespeaker.dataset.dataset_utils import apply_cmvn, spec_aug

    torch.set_num_threads(1)
    random.seed(options.seed), np.random.seed(options.seed), torch.manual_seed(options.seed)
    root = Path(options.root)
    _, utt2spk = tables(root, "wav")
    speakers = {name: i for i, name in enumerate(sorted(set(utt2spk.values())))}
    made = Dataset(options.kind, data_list(root, options.kind, options.form), CONFIG, speakers,
                   reverb_lmdb_file=write_lmdb(root, "rooms"), noise_lmdb_file=write_lmdb(root, "noise"))
    made.set_epoch(options.seed)
    loader = iter(DataLoader(made, batch_size=options.batch_size, num_workers=0, drop_last=True))

    def steps(count):
        for _ in range(count):
            spec_aug(apply_cmvn(next(loader)["feat"].float()))

    # Its shuffle buffer is filled all at once: what is measured are whole turns of it, the first one not counted.
    buffer = CONFIG["shuffle_args"]["shuffle_size"]
    steps(buffer // options.batch_size)
    turns = max(1, options.batches * options.batch_size // buffer)
    count = turns * buffer // options.batch_size
    start = os.times()
    steps(count)
    end = os.times()
    print(json.dumps((end.user - start.user + end.system - start.system + end.children_user - start.children_user)
                     / (count * options.batch_size)))


if __name__ == "__main__":
    main()
