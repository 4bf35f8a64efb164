"""ERes2Nets of 3D-Speaker and WeSpeaker: sizes are read off the tensors, and what does not fit is one line."""

import re

import pytest
import torch

from svq import nets
from svq.errors import UserError
from svq.importing import ORIGINS, Options, fill, uncommon
from svq.nets import eres2net
from tests.importing.worker import imported, refused

PLACES = {"squeeze": "0", "bn1": "1", "excite": "3", "bn2": "4"}
BETWEEN = {"ERes2Net": {"down2": "layer1_downsample", "down3": "layer2_downsample", "down4": "layer3_downsample",
                        "fuse2": "fuse_mode12", "fuse3": "fuse_mode123", "fuse4": "fuse_mode1234"},
           "ERes2NetV2": {"down4": "layer3_ds", "fuse4": "fuse34"}}


def family(origin, name):
    return next(family for family in ORIGINS[origin].families if family.name == name)


def as_theirs(ours: dict[str, torch.Tensor], origin: str, name: str) -> dict[str, torch.Tensor]:
    """A state dict of our network under the names of a toolkit. name: of the family."""
    theirs = {}
    for key, tensor in ours.items():
        key = re.sub(r"(fusions\.\d+|fuse\d)\.(squeeze|bn1|excite|bn2)\.",
                     lambda found: f"{found[1]}.local_att.{PLACES[found[2]]}.", key).replace("fusions", "fuse_models")
        head, _, rest = key.partition(".")
        key = f"{BETWEEN[name].get(head, head)}.{rest}"
        for old, new in (("embedding.", "seg_1."), ("second.1.", "seg_bn_1."), ("second.2.", "seg_2.")):
            key = key.replace(old, new)
        if origin == "wespeaker":
            key = re.sub(r"(layer[34]\.\d)\.(conv|bn)s\.(\d+)", lambda found: f"{found[1]}.{found[2]}2_1"
                         if found[3] == "0" else f"{found[1]}.{found[2]}s.{int(found[3]) - 1}", key)
        theirs[key] = tensor
    return theirs


PUBLISHED = [(origin, arch) for arch in eres2net.NETWORKS for origin in ("3dspeaker", "wespeaker")
             if origin == "3dspeaker" or "V2" not in arch]


@pytest.mark.parametrize("origin, arch", PUBLISHED)
@pytest.mark.parametrize("two_layers", [False, True])
def test_every_published_network_is_recognised(origin, arch, two_layers):
    name = "ERes2NetV2" if "V2" in arch else "ERes2Net"
    with torch.device("meta"):
        ours = nets.build(arch, 80, 192, second_layer=two_layers).state_dict()
    theirs = as_theirs(ours, origin, name)
    assert [known.name for known in ORIGINS[origin].families if all(mark in theirs for mark in known.marks)] == [name]
    plan = family(origin, name).plan(theirs, Options())
    assert (plan.model.arch, plan.model.embed_dim, plan.model.front_end.num_mels) == (arch, 192, 80)
    floor = {"variance_floor": 1e-8} if origin == "3dspeaker" else {}
    assert uncommon(plan.model) == floor | ({"second_layer": True} if two_layers else {})
    assert fill("file", arch, ours, plan, theirs).keys() == ours.keys()


@pytest.mark.parametrize("width, base_width", [(2, 32), (4, 27), (6, 26), (12, 26), (40, 31), (64, 1)])
def test_groups_are_those_of_the_tensors(width, base_width):
    """The base width that is found makes the same groups as the one that the checkpoint was made with."""
    with torch.device("meta"):
        ours = nets.build("ERes2NetV2", 80, 8, width=width, base_width=base_width, scale=3).state_dict()
    theirs = as_theirs(ours, "3dspeaker", "ERes2NetV2")
    plan = family("3dspeaker", "ERes2NetV2").plan(theirs, Options())
    with torch.device("meta"):
        expected = plan.model.build().state_dict()
    assert fill("file", "ERes2NetV2", expected, plan, theirs).keys() == ours.keys()


OURS = {arch: nets.build(arch, 80, 6, width=4).state_dict() for arch in ("ERes2NetBase", "ERes2NetV2")}
BASE = as_theirs(OURS["ERes2NetBase"], "wespeaker", "ERes2Net")
V2 = as_theirs(OURS["ERes2NetV2"], "3dspeaker", "ERes2NetV2")


@pytest.mark.parametrize("arch, state, origin", [("ERes2NetBase", BASE, "wespeaker"), ("ERes2NetV2", V2, "3dspeaker")])
def test_tensors_are_where_they_were(tmp_path, arch, state, origin):
    net, config = imported(tmp_path, state, origin=origin)
    assert config.arch == arch and config.net["width"] == 4
    assert all(torch.equal(tensor, OURS[arch][name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("origin, arch, state", [("wespeaker", "ERes2Net", BASE), ("3dspeaker", "ERes2NetV2", V2)])
def test_every_tensor_is_accounted_for(origin, arch, state):
    ours = OURS["ERes2NetBase" if arch == "ERes2Net" else arch]
    kinds = {re.sub(r"\d+", "", name): name for name in state if "num_batches" not in name}
    for name in kinds.values():
        for changed in ({key: t for key, t in state.items() if key != name}, {**state, name + "_": torch.ones(1)}):
            with pytest.raises((UserError, ValueError, KeyError)):  # the caller makes one line of each
                plan = family(origin, arch).plan(changed, Options())
                fill("file", arch, ours, plan, changed)


@pytest.mark.parametrize("state, origin, words", [
    ({**BASE, "layer5.0.conv1.weight": torch.ones(2)}, "wespeaker", "ERes2NetBase has no place for layer5.0.conv1"),
    ({**V2, "layer1.3.conv1.weight": torch.ones(2)}, "3dspeaker",
     "looks like 3dspeaker's ERes2NetV2, but its stages have (4, 4, 6, 3) blocks, not (3, 4, 6, 3)"),
    ({**BASE, "seg_1.weight": BASE["seg_1.weight"][:, :640].clone()}, "wespeaker", "say which, with --pooling tstp, "),
    ({**BASE, "seg_1.weight": torch.ones(6, 65)}, "wespeaker", "embedding layer takes 65 values, no multiple of the 64"),
    ({**V2, "layer2.0.convs.1.weight": torch.ones(3, 4, 3, 3)}, "3dspeaker", "layer2.0.convs.1.weight has shape [3, 4"),
    ({**V2, "conv1.weight": torch.ones(100, 1, 3, 3)}, "3dspeaker", "option 'expansion' is 0"),
    (V2, "wespeaker", "it looks like one of 3dspeaker: --from 3dspeaker"),
    ({name: t for name, t in V2.items() if "fuse" not in name and "ds" not in name}, "3dspeaker",
     "none of 3dspeaker's networks that are known here"),
], ids=range(8))
def test_checkpoints_that_do_not_fit(tmp_path, state, origin, words):
    refused(tmp_path, words, state, origin=origin)


def test_names_say_which_toolkits_blocks_they_are(tmp_path):
    """So a network that WeSpeaker took over from 3D-Speaker is imported with WeSpeaker's front end."""
    net, _ = imported(tmp_path, as_theirs(OURS["ERes2NetBase"], "3dspeaker", "ERes2Net"), origin="wespeaker")
    assert all(torch.equal(tensor, OURS["ERes2NetBase"][name]) for name, tensor in net.state_dict().items())
