"""Training and the measurement of sensitivities see the features that extraction makes, whatever the front end."""

import numpy as np
import pytest
import torch
from torch import nn

from svq.data.dataset import TrainSet
from svq.data.extraction import Utterances
from svq.data.features import write_ark
from svq.data.frontend import FrontEnd, FrontEndConfig
from svq.data.stored import write_made
from svq.errors import UserError
from svq.models import load_model
from svq.train.loop import Trainer
from svq.train.objective import AAMSoftmax
from svq.train.sensitivity import Crops, LabelLoss
from tests.builders import data_dir

CLOVA = FrontEndConfig(fbank="clova", num_mels=24, variance_normalize=True, preemphasis=0.97)
OVERRIDES = ("model.front_end.fbank=clova", "model.front_end.variance_normalize=true",
             "model.front_end.preemphasis=0.97", "spec_augment=null", "epochs=1")


def test_training(runs, monkeypatch):
    seen = []
    original = Trainer._features
    monkeypatch.setattr(Trainer, "_features", lambda trainer, inputs: seen.append((inputs, original(trainer, inputs)))
                        or seen[-1][1])
    model = runs("clova", *OVERRIDES)
    assert load_model(model)[1].front_end == CLOVA
    for inputs, feats in seen:
        assert torch.equal(feats, FrontEnd(CLOVA)(inputs))
    assert len(seen) == 4


def test_training_as_extraction(tmp_path):
    """The whole of a recording as a crop: the same features from TrainSet and from Utterances."""
    samples = TrainSet(data_dir(tmp_path, speakers=1, utts=1, name="any"), "wav", crop_seconds=0.48).samples
    whole = data_dir(tmp_path, speakers=1, utts=1, seconds=samples / 16000, name="whole")
    crop, _ = TrainSet(whole, "wav", crop_seconds=0.48).item(0, 0)
    (_, feats), *_ = Utterances(whole, CLOVA)
    torch.testing.assert_close(FrontEnd(CLOVA)(torch.from_numpy(crop)[None])[0], feats, rtol=0, atol=1e-5)


def test_sensitivity(tmp_path):
    train_set = TrainSet(data_dir(tmp_path, speakers=2, utts=1, seconds=0.5), "wav", 0.4)
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    crops = torch.from_numpy(np.stack([train_set.item(0, i)[0] for i in range(2)]))
    net(FrontEnd(CLOVA)(crops))
    seen = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    LabelLoss(net, AAMSoftmax(4, 2, 32.0), CLOVA, train_set, 0.2, "cpu")((crops, torch.tensor([0, 1])))
    assert torch.equal(seen[0], FrontEnd(CLOVA)(crops))


def test_features_of_another_front_end_are_refused(runs, tmp_path):
    data = data_dir(tmp_path, speakers=3, utts=4, seconds=0.6)
    pairs = [(f"spk{s:02d}-utt{u:02d}", np.zeros((58, 24), np.float32)) for s in range(3) for u in range(4)]
    write_ark(str(data / "feats.ark"), str(data / "feats.scp"), pairs, "none")
    with pytest.raises(UserError, match="feats.scp: holds Kaldi's log-mels, but the model takes others .fbank clova"):
        runs("refused", *OVERRIDES, "data.input=feats", data=data)
    assert not (runs.folder / "refused").exists()
    with pytest.raises(UserError, match="feats.scp: holds Kaldi's log-mels"):
        LabelLoss(nn.Identity(), AAMSoftmax(4, 3, 32.0), CLOVA, TrainSet(data, "feats", 0.4), 0.2, "cpu")


def test_features_of_another_rate_are_refused(runs, tmp_path):
    """By training and by sensitivities; they take those of their own rate."""
    data = data_dir(tmp_path, speakers=3, utts=4, seconds=0.6)
    pairs = [(f"spk{s:02d}-utt{u:02d}", np.zeros((58, 24), np.float32)) for s in range(3) for u in range(4)]
    write_ark(str(data / "feats.ark"), str(data / "feats.scp"), pairs, "none")
    write_made(data / "feats.yaml", FrontEndConfig(rate=8000, num_mels=24, mean_normalize=False))
    words = "feats.scp: holds log-mels of rate 8000, but the model takes others .rate 16000"
    with pytest.raises(UserError, match=words):
        runs("refused", "data.input=feats", data=data)
    train_set = TrainSet(data, "feats", 0.4)
    with pytest.raises(UserError, match=words):
        Crops(FrontEndConfig(num_mels=24), train_set, "cpu")
    Crops(FrontEndConfig(8000, 24), train_set, "cpu")
