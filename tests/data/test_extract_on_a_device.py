"""Extraction on a device: the CPU's embeddings, and too little memory is said before anything is computed."""

import numpy as np
import pytest
import torch

from svq.data.extraction import Utterances, embed
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.network import ModelConfig
from tests.builders import data_dir
from tests.simulated_device import simulated_device


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return data_dir(tmp_path_factory.mktemp("speech"), speakers=2, utts=3, seconds=0.7)


def network():
    torch.manual_seed(0)
    return ModelConfig("FCStudent", {"width": 8}, 6).build().eval()


class Full(torch.nn.Module):
    """Has memory for so many frames; counts what it computes."""

    def __init__(self, most: int):
        super().__init__()
        self.net, self.most, self.calls = network(), most, []

    def forward(self, feats):
        self.calls.append(tuple(feats.shape[:2]))
        if feats.shape[0] * feats.shape[1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(feats)


def test_as_on_the_cpu(speech):
    wanted = dict(embed(network(), Utterances(speech, FrontEndConfig())))
    with simulated_device():
        found = dict(embed(network(), Utterances(speech, FrontEndConfig(), device="meta"), device="meta"))
    assert found.keys() == wanted.keys() and len(found) == 6
    assert all(np.allclose(found[key], wanted[key], atol=1e-5) for key in wanted)


@pytest.mark.parametrize("most, batch_frames, said", [
    (50, 4000, r"meta: its memory does not suffice for .*"),
    (50, 100, r"for 1 utterance of \d\d frames; read less of it \(--max-seconds\), take it out"),
    (1000, 4000, r"for 20 utterances of 200 frames; lower --batch-frames \(4000\)")])
def test_too_little_memory_is_found_first(speech, most, batch_frames, said):
    net = Full(most)
    with simulated_device(), pytest.raises(UserError, match=said):
        next(embed(net, Utterances(speech, FrontEndConfig(), device="meta"), batch_frames, "meta"))
    assert len(net.calls) <= 2


def test_the_longest_is_tried_first(speech):
    net = Full(10**9)
    with simulated_device():
        list(embed(net, Utterances(speech, FrontEndConfig(), device="meta"), device="meta"))
    assert set(net.calls[:2]) == {(1, 70), (20, 200)} and len(net.calls) > 2
    net.calls.clear()
    list(embed(net, Utterances(speech, FrontEndConfig())))
    assert (20, 200) not in net.calls  # on the CPU nothing is tried
