"""A tiny x-vector as teacher, utterances of unlike lengths, its cached levels, and students of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml

from svq.bin import teacher_embeddings, train
from svq.data.datadir import DataDir
from svq.data.extraction import Utterances
from svq.data.frontend import FrontEndConfig
from svq.models import save_model
from svq.network import ModelConfig, save_tensors
from svq.train.loop import Trainer
from svq.train.objective import AAMSoftmax
from tests.builders import data_dir, voice
from tests.helpers import run_worker

MELS = 24
LEVELS = ("utterance", "narrowBN", "wideBN", "sp_aggr", "wideBN:none", "narrowBN:none")
STUDENT = {
    "model": {"arch": "FCStudent", "net": {"width": 16, "layers": 3, "splice": 3}, "embed_dim": 8,
              "front_end": {"num_mels": MELS}},
    "data": {"crop_seconds": 0.4, "num_workers": 0},
    "distill": {"embedding_weight": 1.0, "label_weight": 0.0, "targets": {"levels": ["utterance"]}},
    "schedule": {"lr": 0.01, "final_lr": 0.002, "warmup_epochs": 0.5, "margin": 0.0},
    "optimizer": {"name": "adamw"},
    "epochs": 3, "batch_size": 6, "average": 1, "precision": "fp32", "num_threads": 1,
}


def make_teacher(folder, seed: int = 0, **front_end):
    """A random x-vector whose batch norms have seen data, as a model folder with a classifier; (net, config)."""
    torch.manual_seed(seed)
    config = ModelConfig(arch="XVector", net={"width": 12, "wide": 20}, embed_dim=10,
                         front_end=FrontEndConfig(**{"num_mels": MELS, **front_end}))
    net = config.build()
    with torch.no_grad():
        for _ in range(5):
            net(3 * torch.randn(8, 60, config.front_end.num_mels))
    save_model(folder, net, config)
    save_tensors(folder / "head.safetensors", AAMSoftmax(10, 3).state_dict())
    (folder / "speakers.txt").write_text("spk00\nspk01\nspk02\n")
    return net.eval(), config


def features(data, config):
    """{utterance: (T, F)}, the whole utterance through the teacher's front end."""
    return dict(iter(Utterances(data, config.front_end)))


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    data = data_dir(folder, speakers=3, utts=8, seconds=0.6)
    rng, durations = np.random.default_rng(1), []
    for i, key in enumerate(DataDir(data).utt2spk.keys()):
        samples = voice(i // 8, 0.3 + 0.05 * (i % 8), rng)  # some shorter than the crop of 0.4 s
        soundfile.write(folder / "data_wav" / f"{key}.wav", samples, 16000, subtype="PCM_16")
        durations.append(f"{key} {len(samples) / 16000}\n")
    (data / "utt2dur").write_text("".join(durations))
    net, config = make_teacher(folder / "teacher")
    cache(folder / "teacher", data, folder / "levels", *LEVELS)
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    return SimpleNamespace(folder=folder, data=data, teacher=folder / "teacher", net=net, config=config,
                           levels=folder / "levels", feats=features(data, config))


def cache(model, data, out, *levels, **options):
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    run_worker(teacher_embeddings.main, "--model", model, "--data", data, "--out", out, "--level", *levels, *words)
    return out


class Stop(Exception):
    pass


@pytest.fixture
def student(place):
    """`student("name", "key=value", ...)` trains into a folder of that name; options replace those of the command."""

    def run(name, *overrides, stop_at=None, **options):
        given = {"config": place.folder / "student.yaml", "data": place.data, "teacher": place.teacher,
                 "targets": place.levels, **options}
        words = [word for option, value in given.items() if value is not None for word in (f"--{option}", value)]
        words += [word for pair in overrides for word in ("--set", pair)]
        out = place.folder / name
        if stop_at is None:
            run_worker(train.main, *words, "--out", out)
            return out
        original = Trainer._save_if_due

        def save_or_stop(trainer):
            original(trainer)
            if trainer.step == stop_at:
                raise Stop

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
            patch.setattr(Trainer, "_save_if_due", save_or_stop)
            run_worker(train.main, *words, "--out", out)
        return out

    return run
