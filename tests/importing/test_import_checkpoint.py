"""What svq.bin.import_checkpoint refuses, in one line with nothing written, and what it takes beside the plain case."""

import io
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from svq import nets
from svq.bin import import_checkpoint
from svq.compression.plan import starting_point
from svq.errors import UserError
from svq.importing import ORIGINS, Options, fill, uncommon
from svq.importing.plan import read_state
from svq.models import load_model
from svq.nets import resnet
from svq.network import ModelConfig
from tests import renderings
from tests.helpers import run_worker


def xvec(width=24, wide=40, embed_dim=16, num_mels=20, segments=2) -> dict[str, torch.Tensor]:
    """A small WeSpeaker or 3D-Speaker x-vector."""
    sizes = [num_mels, width, width, width, width, wide]
    state, random = {}, torch.Generator().manual_seed(0)
    for i, context in enumerate((5, 3, 3, 1, 1)):
        state[f"frame_{i + 1}.conv_1d.weight"] = 0.1 * torch.randn(sizes[i + 1], sizes[i], context, generator=random)
        state[f"frame_{i + 1}.conv_1d.bias"] = torch.zeros(sizes[i + 1])
        state |= {f"frame_{i + 1}.bn.running_{kind}": torch.ones(sizes[i + 1]) for kind in ("mean", "var")}
        state[f"frame_{i + 1}.bn.num_batches_tracked"] = torch.tensor(7)
    state |= {"seg_1.weight": torch.randn(embed_dim, 2 * wide, generator=random), "seg_1.bias": torch.zeros(embed_dim)}
    if segments == 2:
        state |= {f"seg_bn_1.running_{kind}": torch.ones(embed_dim) for kind in ("mean", "var")}
        state |= {"seg_bn_1.num_batches_tracked": torch.tensor(7), "seg_2.weight": torch.eye(embed_dim),
                  "seg_2.bias": torch.zeros(embed_dim)}
    return state


@pytest.fixture
def run(tmp_path):
    """Imports `state`, or the file of that name, into tmp_path/out; its config."""

    def call(state, *words, origin="wespeaker", name="a checkpoint.pt"):
        if not isinstance(state, str):
            (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
        file = tmp_path / (state if isinstance(state, str) else name)
        run_worker(import_checkpoint.main, file, "--from", origin, "--out", tmp_path / "out", *words)
        return load_model(tmp_path / "out")

    return call


def refused(run, tmp_path, words, *arguments, **options):
    with pytest.raises(UserError) as error:
        run(*arguments, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrap", [
    lambda state: {"model": state, "epoch": 3}, lambda state: {"state_dict": state},
    lambda state: {"model": {"model": state}},
    lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    lambda state: {name: t.double() if t.is_floating_point() else t for name, t in state.items()},
    lambda state: {name: t for name, t in state.items() if "num_batches" not in name}])
def test_wrappers_prefixes_and_types(run, wrap):
    net, config = run(wrap(xvec()))
    assert config == ModelConfig("XVector", config.net, 16, config.front_end)
    assert config.net == {"width": 24, "wide": 40}
    assert torch.equal(net.frame2.conv.weight, xvec()["frame_2.conv_1d.weight"])


def test_safetensors_and_old_files(run, tmp_path):
    from_safetensors, _ = run(xvec(), name="x.safetensors")
    torch.save(xvec(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    from_old, _ = run("old.pt")
    for one, other in zip(from_safetensors.state_dict().values(), from_old.state_dict().values()):
        assert torch.equal(one, other)


def test_options(run, tmp_path, capsys):
    _, config = run({**xvec(segments=1), "projection.weight": torch.ones(2, 2)}, "--rate", 8000, "--arch", "XVector")
    assert (config.front_end.rate, config.net["segments"]) == (8000, 1)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path / 'out'}: XVector ")
    assert said[0].endswith(" parameters, embeddings of 16 numbers, from 27 tensors")
    assert said[1].startswith("front end: rate 8000, num_mels 20, mean_normalize True, ")
    assert said[2:] == ["left out (classifier): projection.weight"]


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


CUT = "neither a whole file of torch.save nor .safetensors"
JUNK = {
    "code.pt": "holds more than tensors", "pickle.pt": "holds more than tensors",
    "array.npy": "a NumPy array: " + CUT, "module.pt": "save its state dict alone", "half.pt": CUT, "end.pt": CUT,
    "old half.pt": CUT, "text.pt": CUT, "empty.pt": CUT, "half.safetensors": "not a complete safetensors file",
    "numbers.pt": "holds no state dict", "script.pt": "TorchScript",
}


def junk(name: str) -> bytes:
    """What a file of JUNK holds."""
    if name in ("pickle.pt", "text.pt", "empty.pt"):
        return {"pickle.pt": pickle.dumps(Code()), "text.pt": b"hello, world\n" * 9, "empty.pt": b""}[name]
    if name == "half.safetensors":
        return b"\x10\0\0\0\0\0\0\0{"
    buffer = io.BytesIO()
    if name == "array.npy":
        np.save(buffer, np.ones(3))
    elif name == "script.pt":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    else:
        what = {"code.pt": {"a": Code()}, "module.pt": torch.nn.Linear(2, 2), "numbers.pt": {"epoch": 3}}
        torch.save(what.get(name, xvec()), buffer, _use_new_zipfile_serialization="old" not in name)
    whole = buffer.getvalue()
    return whole[:len(whole) // 2] if "half" in name else whole[:-5] if name == "end.pt" else whole


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", JUNK)
def test_files_that_are_no_checkpoints(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(junk(name))
    refused(run, tmp_path, JUNK[name], name)
    refused(run, tmp_path, f"{name}: ", name)
    assert not (tmp_path / "ran").exists()


@given(st.integers(0, 3000), st.binary(min_size=0, max_size=30))
def test_damage_of_any_kind_is_one_line(tmp_path_factory, start, bytes_):
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(300)}, buffer)
    whole = buffer.getvalue()
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(whole[:start] + bytes_ + whole[start + len(bytes_):] if start % 2 else whole[:start] + bytes_)
    try:
        assert read_state(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def without(state, *names):
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize("state, words", [
    ({"encoder.weight": torch.ones(3)},
     ": it has tensors such as enc"),
    ({**xvec(), "attention.weight": torch.ones(3)}, "XVector has no place for attention.weight"),
    ({**xvec(), "frame_9.bn.running_mean": torch.ones(3)}, "has no place for frame_9.bn.running_mean"),
    (without(xvec(), "frame_2.conv_1d.bias"), "nothing in it for frame2.conv.bias"),
    (without(xvec(), "seg_2.bias"), "nothing in it for segment2.bias"),
    ({**xvec(), "frame_3.conv_1d.weight": torch.ones(24, 24, 5)},
     "frame_3.conv_1d.weight has shape [24, 24, 5], where XVector of its sizes has [24, 24, 3]"),
    ({**xvec(), "seg_1.bias": torch.full((16,), float("nan"))}, "seg_1.bias holds values that are not finite"),
    ({**xvec(), "frame_1.bn.running_var": -torch.ones(24)}, "gives no finite embedding"),
    ({**xvec(), "module.seg_1.bias": torch.zeros(16)}, "XVector has no place for module.seg_1.bias"),
    ({**xvec(), "seg_1.weight": torch.ones(10**13, 0)}, "seg_1.weight is no plain tensor of numbers but torch.strided"),
    ({**xvec(), "seg_1.bias": torch.ones(1).expand(10**12)}, "seg_1.bias is no plain tensor"),
    ({**xvec(), "seg_1.bias": torch.ones(16).to_sparse()}, "seg_1.bias is no plain tensor of numbers but torch.sparse"),
    ({**xvec(), "seg_1.bias": torch.ones(16, dtype=torch.complex64)}, "seg_1.bias is no plain tensor"),
    ({"frame_1.conv_1d.weight": torch.ones(3), "frame_5.conv_1d.weight": torch.ones(3), "seg_1.weight": torch.ones(3)},
     "looks like wespeaker's x-vector, but "),
])
def test_checkpoints_that_do_not_fit(run, tmp_path, state, words):
    refused(run, tmp_path, words, state)


@pytest.mark.parametrize("name", [name for name in xvec() if "num_batches" not in name])
def test_every_tensor_is_accounted_for(run, tmp_path, name):
    """Whichever one is missing, or has another name: it is an error."""
    refused(run, tmp_path, ": ", without(xvec(), name))
    refused(run, tmp_path, ": ", {key + "_" if key == name else key: tensor for key, tensor in xvec().items()})
    refused(run, tmp_path, f"{name}_", {**xvec(), name + "_": torch.ones(1)})


def test_another_origin_is_suggested(run, tmp_path):
    refused(run, tmp_path, "it looks like one of wespeaker or 3dspeaker: --from wesp", xvec(), origin="speechbrain")
    refused(run, tmp_path, "holds XVector, not ResNet34; leave --arch out", xvec(), "--arch", "ResNet34")
    refused(run, tmp_path, "known are wespeaker, speechbrain, 3dspeaker, clova, pyannote, redimnet, resemblyzer, onnx", xvec(), origin="kaldi")


def test_places_that_are_none(run, tmp_path):
    refused(run, tmp_path, "no such file", "nowhere.pt")
    refused(run, tmp_path, ": a folder; name the checkpoint file in it", ".")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: a file; --out takes a folder"):
        run(xvec())
    assert (tmp_path / "out").read_text() == "mine"


def as_theirs(ours, name):
    """A state dict of our ResNet `name` under the names of WeSpeaker and 3D-Speaker."""
    blocks = resnet.NETWORKS[name].keywords["blocks"]
    places = [(stage, index) for stage, total in enumerate(blocks, 1) for index in range(total)]
    theirs = {}
    for key, tensor in ours.items():
        if key.startswith("layers."):
            _, number, rest = key.split(".", 2)
            key = "layer{}.{}.".format(*places[int(number)]) + rest
        for old, new in (("embedding.", "seg_1."), ("second.1.", "seg_bn_1."), ("second.2.", "seg_2.")):
            key = key.replace(old, new)
        theirs[key] = tensor
    return theirs


@pytest.mark.parametrize("name", resnet.NETWORKS)
@pytest.mark.parametrize("two_layers", [False, True])
def test_every_resnet_is_recognised(name, two_layers):
    """At its published size, and every tensor of it has its place."""
    with torch.device("meta"):
        ours = nets.build(name, 80, 256, second_layer=two_layers).state_dict()
    theirs = as_theirs(ours, name)
    plan = ORIGINS["wespeaker"].families[0].plan(theirs, Options())
    assert (plan.model.arch, plan.model.embed_dim, plan.model.front_end.num_mels) == (name, 256, 80)
    assert uncommon(plan.model) == ({"second_layer": True} if two_layers else {})
    assert fill("file", name, ours, plan, theirs).keys() == ours.keys()


def resnet_state(bands, poolings, block):
    """Tensors of a small ResNet of WeSpeaker or 3D-Speaker whose pooling gives `poolings` values of each of the `bands`
    frequencies of a channel."""
    theirs = as_theirs(nets.build(block, 8 * bands, 6, width=4).state_dict(), block)
    weight = theirs["seg_1.weight"]
    return {**theirs, "seg_1.weight": weight[:, :weight.shape[1] * poolings // 2].clone()}


def told(mels, pooling):
    return (*(("--num-mels", mels) if mels else ()), *(("--pooling", pooling) if pooling else ()))


@pytest.mark.parametrize("origin", ["wespeaker", "3dspeaker"])
@pytest.mark.parametrize("block", ["ResNet18", "ResNet50"])
@pytest.mark.parametrize("mels, poolings, said, pooling, found", [
    (80, 2, 0, "", (80, "tstp")), (80, 2, 80, "", (80, "tstp")), (40, 2, 40, "", (40, "tstp")),
    (64, 2, 64, "tstp", (64, "tstp")), (64, 2, 0, "tstp", (64, "tstp")), (80, 1, 0, "tap", (80, "tap")),
    (80, 1, 80, "tsdp", (80, "tsdp")), (40, 1, 0, "tsdp", (40, "tsdp")), (40, 2, 0, "tap", (80, "tap")),
    (40, 2, 0, "", "of means and deviations and 40 mel channels, or of means or deviations alone and 80: say which"),
    (64, 2, 0, "", "say which, with --pooling tstp, --pooling tap or --pooling tsdp"),
    (80, 1, 80, "", "means or deviations alone of 80 mel channels: say which, with --pooling tap or --pooling tsdp"),
    (40, 1, 0, "", "alone of 40 mel channels: say which"), (40, 1, 40, "", "say which, with --pooling tap or"),
    (80, 2, 79, "", "are not those of --num-mels 79 but of means and deviations (tstp) of 80 mel channels, or means (tap)"),
    (80, 2, 64, "tstp", "not those of --num-mels 64 --pooling tstp but of"),
    (40, 1, 0, "tstp", "are not those of --pooling tstp but of means (tap) or deviations (tsdp) of 40")])
def test_poolings_of_a_resnet_that_shapes_do_not_tell(run, tmp_path, origin, block, mels, poolings, said, pooling, found):
    state = resnet_state(mels // 8, poolings, block)
    if isinstance(found, str):
        return refused(run, tmp_path, found, state, *told(said, pooling), origin=origin)
    net, config = run(state, *told(said, pooling), origin=origin)
    assert (config.front_end.num_mels, config.net.get("pooling", "tstp")) == found
    assert torch.equal(net.embedding.weight, state["seg_1.weight"])


@pytest.mark.parametrize("pooling", ["astp", "mhastp", "mqmhastp"])
def test_attentive_poolings_tell_themselves(run, tmp_path, pooling):
    ours = nets.build("ResNet18", 24, 6, width=4, pooling=pooling).state_dict()
    theirs = as_theirs(ours, "ResNet18")
    for name in list(theirs):
        if name.startswith("pool.queries."):
            _, _, query, head, layer, kind = name.split(".")
            place = "pool" if pooling == "mhastp" else f"pool.n_query.{query}"
            theirs[f"{place}.heads_att_trans.{head}.att_{int(layer) // 2}.{kind}"] = theirs.pop(name)
    refused(run, tmp_path, f"its pooling is {pooling}; leave --pooling tap out", theirs, "--pooling", "tap")
    net, config = run(theirs)
    assert config.net["pooling"] == pooling and config.front_end.num_mels == 24
    assert all(torch.equal(tensor, ours[name]) for name, tensor in net.state_dict().items())
    odd = {name: tensor[:, 1:] if name.endswith(("linear1.weight", "att_0.weight")) else
           tensor[1:] if name.endswith(("linear2.weight", "linear2.bias")) else tensor for name, tensor in theirs.items()}
    shutil.rmtree(tmp_path / "out")
    refused(run, tmp_path, "looks like wespeaker's ResNet, but its pooling takes", odd)


def rep_vgg_state(**options):
    """Tensors of a small RepVGG-A0 of WeSpeaker."""
    torch.manual_seed(0)
    ours = nets.build("RepVGGA0", 24, 6, widths=[4, 8, 8, 16], **options).state_dict()
    places = [f"stage{stage}.{index}" for stage, total in enumerate((2, 4, 14, 1), 1) for index in range(total)]
    second = "rbr_dense_dilation" if options.get("dilated") else "rbr_1x1"
    theirs = {}
    for name, tensor in ours.items():
        block, _, rest = name.removeprefix("layers.").partition(".")
        place = places[int(block)] if name.startswith("layers.") else {"conv1": "stage0", "embedding": "seg"}[block]
        if block != "embedding":
            for old, new in (("dense.0", "rbr_dense.conv"), ("dense.1", "rbr_dense.bn"), ("second.0", f"{second}.conv"),
                             ("second.1", f"{second}.bn"), ("identity", "rbr_identity"), ("conv", "rbr_reparam"),
                             ("se.squeeze", "se.fc_1"), ("se.excite", "se.fc_2")):
                if rest.startswith(f"{old}."):
                    rest = rest.replace(old, new, 1)
                    break
        theirs[f"{place}.{rest}"] = tensor
    return ours, theirs


@pytest.mark.parametrize("options", [{}, {"dilated": True, "excite": True}, {"merged": True, "excite": True},
                                     {"merged": True, "dilated": True}])
def test_rep_vgg_as_trained_and_merged(run, tmp_path, options):
    ours, theirs = rep_vgg_state(**options)
    refused(run, tmp_path, "may be of means and deviations and 24 mel channels", theirs)
    run(theirs, "--num-mels", 24)
    net, config = load_model(tmp_path / "out", branches=True)
    assert config.net == {"widths": [4, 8, 8, 16], **options}
    assert all(torch.equal(tensor, ours[name]) for name, tensor in net.state_dict().items())
    small, compressed = starting_point(tmp_path / "a checkpoint.pt", "wespeaker", Options(num_mels=24))
    assert compressed.net["merged"] is True and small.conv1.dense is None  # of what there is to compress
    shutil.rmtree(tmp_path / "out")
    name = next(name for name in theirs if name.startswith("stage4.0.rbr"))
    refused(run, tmp_path, ": ", without(theirs, name), "--num-mels", 24)
    refused(run, tmp_path, "RepVGGA0 has no place for stage1.0.rbr_other.weight",
            {**theirs, "stage1.0.rbr_other.weight": torch.ones(3)}, "--num-mels", 24)


def test_mel_channels_that_the_tensors_contradict(run, tmp_path):
    refused(run, tmp_path, "--num-mels 40, but its tensors are those of 20 mel channels", xvec(), "--num-mels", 40)
    half = {**xvec(), "seg_1.weight": xvec()["seg_1.weight"][:, :40].clone()}       # means or deviations alone
    refused(run, tmp_path, "seg_1.weight has shape [16, 40], where XVector of its sizes has [16, 80]", half)


def test_sizes_that_no_network_has(run, tmp_path):
    """Here an ECAPA-TDNN without the parts of a Res2Net layer."""
    state = {"layer1.conv.weight": torch.ones(8, 20, 5), "layer4.se_res2block.0.conv.weight": torch.ones(8, 8, 1),
             "layer2.se_res2block.3.linear1.weight": torch.ones(4, 8), "conv.weight": torch.ones(24, 24, 1),
             "pool.linear1.weight": torch.ones(4, 24, 1), "linear.weight": torch.ones(6, 48)}
    refused(run, tmp_path, "a checkpoint.pt: arch ECAPA512: channels is 8 and scale 1; scale must be", state)


def test_resnet_of_strange_depth(run, tmp_path):
    names = [f"layer{stage}.0.conv{i}.weight" for stage in range(1, 5) for i in (1, 2)]
    state = dict.fromkeys([*names, "conv1.weight", "bn1.running_mean", "seg_1.weight"], torch.ones(8, 160))
    refused(run, tmp_path, "its stages have 1, 1, 1, 1 blocks, which no ResNet known here has", state)


@pytest.mark.parametrize("filters, words", [
    (renderings.clova_filters(24), None),
    (renderings.clova_filters(24)[:201], "[201, 24] are not those of 24 channels"),
    (2 * renderings.clova_filters(24), "are not those of 24 channels at 16000 Hz")])
def test_clovas_own_filters_are_compared(run, tmp_path, filters, words):
    """The fast ResNet's mel channels are told by the front end that its checkpoint holds."""
    torch.manual_seed(0)
    ours = nets.build("FastResNet34", 24, 16, width=8).state_dict()
    theirs = {"torchfb.mel_scale.fb": torch.from_numpy(filters).float(), "torchfb.spectrogram.window": torch.ones(400)}
    stages = [(stage, index) for stage, total in enumerate((3, 4, 6, 3), 1) for index in range(total)]
    for name, tensor in ours.items():
        for old, new in (("pool.hidden", "sap_linear"), ("pool.score.weight", "attention"), ("embedding", "fc"),
                         ("se.squeeze", "se.fc.0"), ("se.excite", "se.fc.2"), ("shortcut", "downsample")):
            name = name.replace(old, new)
        if name.startswith("layers."):
            number, _, rest = name.removeprefix("layers.").partition(".")
            name = "layer{}.{}.".format(*stages[int(number)]) + rest
        theirs[name] = tensor.t() if name == "attention" else tensor
    if words:
        return refused(run, tmp_path, words, theirs, origin="clova")
    net, config = run(theirs, origin="clova")
    assert config.front_end.num_mels == 24
    bare = {name: tensor for name, tensor in theirs.items() if not name.startswith("torchfb")}
    shutil.rmtree(tmp_path / "out")
    refused(run, tmp_path, "any number of mel channels, or a thin ResNet34", bare, origin="clova")
    assert run(bare, "--num-mels", 24, origin="clova")[1] == config
    assert all(torch.equal(tensor, ours[name]) for name, tensor in net.state_dict().items())


def test_the_command_ends_with_status_1_and_one_line(tmp_path):
    (tmp_path / "x.pt").write_text("text")
    command = [sys.executable, "-m", "svq.bin.import_checkpoint", tmp_path / "x.pt", "--from", "clova"]
    done = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"svq.bin.import_checkpoint: {tmp_path}/x.pt: a text: neither a whole") and \
        done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
