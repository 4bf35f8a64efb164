"""CAM++ of 3D-Speaker and WeSpeaker: other sizes are read off the tensors, and what does not fit is one line."""

import re

import pytest
import torch

from svq import nets
from svq.errors import UserError
from svq.importing import ORIGINS, Options, fill, uncommon
from tests.importing.worker import imported, refused

FAMILIES = {name: family for name in ("wespeaker", "3dspeaker") for family in ORIGINS[name].families
            if family.name == "CAM++"}
SIZES = {"width": 2, "channels": 8, "growth": 4, "bottleneck": 6, "layers": (3, 1, 2)}
NAMES = [  # ours, theirs
    (r"head\.layers\.([01])\.", r"head.layer1.\1."), (r"head\.layers\.2\.", "head.layer2.0."),
    (r"head\.layers\.3\.", "head.layer2.1."), (r"^(frame1|block|transit)", r"xvector.\1"),
    (r"frame1\.conv", "tdnn.linear"), (r"frame1\.bn", "tdnn.nonlinear.batchnorm"),
    (r"(transit\d)\.conv", r"\1.linear"), (r"(transit\d)\.bn", r"\1.nonlinear.batchnorm"),
    (r"(block\d)\.(\d+)\.", lambda found: f"{found[1]}.tdnnd{int(found[2]) + 1}."),
    (r"(tdnnd\d+)\.bn(\d)", r"\1.nonlinear\2.batchnorm"), (r"(tdnnd\d+)\.conv1", r"\1.linear1"),
    (r"(tdnnd\d+)\.conv2", r"\1.cam_layer.linear_local"), (r"mask\.squeeze", "cam_layer.linear1"),
    (r"mask\.excite", "cam_layer.linear2"), (r"^bn_pool", "xvector.out_nonlinear.batchnorm"),
    (r"^embedding", "xvector.dense.linear"), (r"^bn\.", "xvector.dense.nonlinear.batchnorm."),
]


def as_theirs(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of our CAM++ under the names of 3D-Speaker and WeSpeaker, whose last layer is a convolution."""
    theirs = {}
    for name, tensor in ours.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        theirs[name] = tensor[..., None] if name == "xvector.dense.linear.weight" else tensor
    return theirs


torch.manual_seed(0)
OURS = nets.build("CAMPPlus", 24, 10, **SIZES).state_dict()
SMALL = as_theirs(OURS)


@pytest.mark.parametrize("origin, settings, options", [
    ("wespeaker", {"window": "hamming"}, {}), ("3dspeaker", {"full_scale": 1.0}, {"variance_floor": 1e-12})])
def test_sizes_and_front_end(tmp_path, origin, settings, options):
    net, config = imported(tmp_path, SMALL, origin=origin)
    assert {**config.net, "layers": tuple(config.net["layers"])} == SIZES | options
    assert (config.embed_dim, config.front_end.num_mels) == (10, 24)
    assert all(getattr(config.front_end, name) == value for name, value in settings.items())
    assert all(torch.equal(tensor, OURS[name]) for name, tensor in net.state_dict().items())


def test_the_published_network_takes_no_options():
    with torch.device("meta"):
        ours = nets.build("CAMPPlus", 80, 192).state_dict()
    plan = FAMILIES["wespeaker"].plan(as_theirs(ours), Options())
    assert uncommon(plan.model) == {} and (plan.model.embed_dim, plan.model.front_end.num_mels) == (192, 80)
    assert fill("file", "CAMPPlus", ours, plan, as_theirs(ours)).keys() == ours.keys()


def test_every_tensor_is_accounted_for(tmp_path):
    kinds = {re.sub(r"\d+", "", name): name for name in SMALL if "num_batches" not in name}
    for name in kinds.values():
        for state in ({key: t for key, t in SMALL.items() if key != name}, {**SMALL, name + "_": torch.ones(1)}):
            with pytest.raises((UserError, KeyError)):  # the caller makes one line of either
                plan = FAMILIES["3dspeaker"].plan(state, Options())
                fill("file", "CAMPPlus", OURS, plan, state)
    refused(tmp_path, "lacks 'xvector.out_nonlinear.batchnorm.weight'",
            {name: t for name, t in SMALL.items() if name != "xvector.out_nonlinear.batchnorm.weight"})


@pytest.mark.parametrize("changes, words", [
    ({"xvector.dense.linear.weight": torch.ones(10, 7, 1)}, "its pooling gives means or deviations alone (TAP or"),
    ({"xvector.dense.linear.weight": torch.ones(10, 19, 1)}, "xvector.dense.linear.weight has shape [10, 19, 1]"),
    ({"xvector.tdnn.linear.weight": torch.ones(8, 7, 5)}, "takes 7 channels, no multiple of the 2 of its head"),
    ({"xvector.block1.tdnnd3.linear1.weight": torch.ones(6, 6, 1)}, "CAMPPlus of its sizes has"),
    ({"xvector.stats.linear1.weight": torch.ones(4, 4, 1)}, "CAMPPlus has no place for xvector.stats.linear1.weight"),
    ({"xvector.tdnn.linear.weight": torch.ones(3)}, "looks like 3dspeaker's CAM++, but ")])
def test_checkpoints_that_do_not_fit(tmp_path, changes, words):
    refused(tmp_path, words, {**SMALL, **changes})


def test_mel_channels_that_the_tensors_contradict(tmp_path):
    refused(tmp_path, "--num-mels 40, but its tensors are those of 24 mel channels", SMALL, "--num-mels", 40)


def test_another_origin_is_suggested(tmp_path):
    refused(tmp_path, "it looks like one of wespeaker or 3dspeaker: --from wespeaker", SMALL, origin="speechbrain")
