"""ReDimNets of every size are recognised, by tensors and arguments; what no network or front end here follows is not."""

import copy
import json
from pathlib import Path

import pytest
import torch

from svq import nets
from svq.bin import import_checkpoint
from svq.data.fbank import ReDimNet2Fbank, ReDimNetFbank
from svq.errors import UserError
from svq.importing import ORIGINS, Options, fill, set_aside, uncommon
from svq.models import load_model
from svq.nets.redimnet import FORMS
from tests.helpers import run_worker
from tests.importing import formula

FIXTURES = Path(__file__).parent / "fixtures"
SIZES = [f"ReDimNet{generation}B{size}" for generation in ("", "2") for size in range(7)]
BLOCKS = {"spread": "dwconvs.0", "mix": "pwconv1", "mix1": "conv1pw", "mix2": "conv2pw"}
CONTEXT = {"reduce": "red_dim_conv.0", "norm": "red_dim_conv.1", "expand": "exp_dim_conv"}
ATTENTION = {"query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj",
             "out": "attention.out_proj", "norm1": "layer_norm", "norm2": "final_layer_norm",
             "hidden": "feed_forward.intermediate_dense", "output": "feed_forward.output_dense"}


def as_theirs(net):
    """The state dict of our network under the names of the authors of ReDimNet and ReDimNet2."""
    state = {"backbone.stage0.0.w": torch.zeros(1, 1, 1, 1)}
    for name, tensor in net.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stages":
            name = of_stage(parts[1], parts[2:], len(net.stages[int(parts[1])].blocks))
        elif name == "aggregate.scores":
            name = "backbone.fin_wght1d.w"
        elif parts[0] in ("stem", "head"):
            name = f"backbone.{name}"
        state[name.replace("embedding.", "linear.")] = tensor[None] if name.endswith(".w") else tensor
    return state


def of_stage(stage, parts, depth):
    first, rest = parts[0], ".".join(parts[1:])
    if first == "aggregate":
        where = "0.w"
    elif first == "down":
        where = f"2.{rest}"
    elif first == "blocks":
        where = f"{3 + int(parts[1])}.conv_block.{BLOCKS.get(parts[2], parts[2])}.{'.'.join(parts[3:])}"
        where = where.replace("excite", "exitation")
    elif first == "squeeze":
        where = f"{3 + depth}.{rest}"
    elif parts[1] == "convs":
        where = f"9.tcm.{parts[2]}.{BLOCKS.get(parts[3], parts[3])}.{parts[4]}"
    elif parts[1] == "attention":
        where = f"9.tcm.4.{ATTENTION[parts[2]]}.{parts[3]}"
    else:
        where = f"9.{CONTEXT[parts[1]]}.{parts[2]}"
    return f"backbone.stage{stage}.{where}"


@pytest.mark.parametrize("arch", SIZES)
def test_every_size_is_recognised(arch):
    """At its published size, and every tensor of it has its place."""
    sizes = nets.usual_sizes(arch)
    with torch.device("meta"):
        net = nets.build(arch, *sizes)
        theirs = as_theirs(net)
    second = arch.startswith("ReDimNet2")
    told = {"feat_type": "tf" if second else "pt", "hop_length": 160 if second else 240, "return_2d_output": second,
            "spec_params": {"norm_signal": second}}
    origin = ORIGINS["redimnet"]
    plan = origin.families[0].plan(theirs, Options(model_config=told))
    assert (plan.model.arch, plan.model.front_end.num_mels, plan.model.embed_dim) == (arch, *sizes)
    assert (plan.model.front_end.fbank, plan.model.front_end.hop_ms) == (("redimnet2", 10) if second else ("redimnet", 15))
    assert plan.model.front_end.waveform_normalize == second and uncommon(plan.model) == {}
    state, left_out = set_aside(origin, theirs)
    assert list(left_out) == ["backbone.stage0.0.w"]
    assert fill("file", arch, net.state_dict(), plan, state).keys() == net.state_dict().keys()


@pytest.fixture
def file():
    """Makes the file that a fixture tells of: {"state_dict": ..., "model_config": ...}."""
    def make(name):
        fixture = json.loads((FIXTURES / f"{name}.json").read_text())
        return {"state_dict": formula.checkpoint(formula.expand(fixture["layers"])), "model_config": fixture["model_config"]}

    return make


@pytest.fixture
def run(tmp_path):
    def call(content, *words, origin="redimnet"):
        torch.save(content, tmp_path / "x.pt")
        run_worker(import_checkpoint.main, tmp_path / "x.pt", "--from", origin, "--out", tmp_path / "out", *words)
        return load_model(tmp_path / "out")

    return call


def with_told(content, **told):
    return {**content, "model_config": {**content["model_config"], **told}}


def with_spec(content, **spec):
    return with_told(content, spec_params={**content["model_config"].get("spec_params", {}), **spec})


def refused(run, tmp_path, words, *arguments, **options):
    with pytest.raises(UserError) as error:
        run(*arguments, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("told, words", [
    ({"block_2d_type": "convnext_like_relu"}, "has block_2d_type 'convnext_like_relu', where 'convnext_like' or"),
    ({"block_1d_type": "att"}, "block_1d_type 'att', where 'conv+att' is known here"),
    ({"causal": "full"}, "causal 'full'"), ({"pooling_func": "TSTP"}, "pooling_func 'TSTP', where 'ASTP' is"),
    ({"hop_length": 250}, "hop_length 250, which is no whole number of milliseconds"),
    ({"hop_length": "160"}, "hop_length '160'"), ({"feat_type": "tf_spec"}, "feat_type 'tf_spec', where 'pt' or 'pt_mel'"),
    ({"feat_type": ["tf"]}, "feat_type"), ({"return_2d_output": False}, "it pools frames (return_2d_output false)"),
    ({"rotary": True}, "rotary True, which is not known here"), ({"pad_right_samples": 80}, "pad_right_samples 80"),
    ({"spec_params": 3}, "spec_params that are no settings"), ({"agg_gnorm": 1}, "agg_gnorm 1, where true or 4 is known"),
    ({"agg_gnorm": "4"}, "agg_gnorm '4'")])
def test_arguments_that_nothing_here_follows(run, tmp_path, file, told, words):
    refused(run, tmp_path, words, with_told(file("redimnet_two_small"), **told))


@pytest.mark.parametrize("spec, words", [
    ({"f_max": 8000}, "its spec_params has f_max 8000, where 7600 is known here"), ({"n_fft": 400}, "n_fft 400"),
    ({"do_preemph": False}, "do_preemph False"), ({"sample_rate": 8000}, "sample_rate 8000"),
    ({"spec_norm": "mvn"}, "spec_norm 'mvn'"), ({"warp": 2}, "warp 2, which is not known here"),
    ({"norm_signal": "no"}, "norm_signal 'no'")])
def test_front_ends_that_are_not_known(run, tmp_path, file, spec, words):
    refused(run, tmp_path, words, with_spec(file("redimnet_two_small"), **spec))


def test_arguments_have_the_defaults_of_the_authors(run, file):
    content = file("redimnet_two_small")
    for name in ("spec_params", "feat_type", "hop_length"):
        content["model_config"].pop(name, None)
    front_end = run(content)[1].front_end
    assert (front_end.fbank, front_end.waveform_normalize, front_end.hop_ms) == ("redimnet", False, 10)


def test_without_arguments_the_front_end_is_not_told(run, tmp_path, file):
    content = file("redimnet_two_small")
    for state in (content["state_dict"], {"state_dict": content["state_dict"], "model_config": 5}):
        refused(run, tmp_path, "no model_config is beside its tensors, which alone tells its front end: import the file as",
                state)
    refused(run, tmp_path, "its front end is of 16000 samples a second, not 8000; leave --rate out", content, "--rate", 8000)


def test_filters_in_the_file_are_compared(run, tmp_path, file):
    content = file("redimnet_two_small")
    ours = ReDimNet2Fbank(24).mel.t()[..., None]
    tensors = {"spec.torchfbank.1.flipped_filter": torch.ones(1, 1, 2), "spec.torchfbank.2.melbanks_pt": ours}
    kept = copy.deepcopy(content)
    kept["state_dict"] |= tensors
    assert run(kept)[1].front_end.fbank == "redimnet2"
    for name, other in (("melbanks_pt", 1.01 * ours), ("melbanks_pt", ours[:23]), ("mel_scale.fb", ReDimNetFbank(24).mel)):
        strange = {**content, "state_dict": {**content["state_dict"], f"spec.torchfbank.2.{name}": other}}
        with pytest.raises(UserError, match="are not those of fbank redimnet2 with 24 channels"):
            run(strange)


def test_origins_are_not_confused(run, tmp_path, file):
    """The names of WeSpeaker's ReDimNet2 are those of its authors."""
    for name in ("redimnet_two_small", "redimnet_resnet_small"):
        refused(run, tmp_path, "it is a file of ReDimNet's authors: import it with --from redimnet", file(name),
                origin="wespeaker")
    theirs = json.loads((FIXTURES / "wespeaker_redimnet_small.json").read_text())
    state = formula.checkpoint(formula.expand(theirs["layers"]))
    refused(run, tmp_path, "it looks like one of wespeaker: --from wespeaker", state)


@pytest.mark.parametrize("name", ["redimnet_two_small", "redimnet_convnext_small"])
def test_every_tensor_is_accounted_for(run, tmp_path, file, name):
    content = file(name)
    state = content["state_dict"]
    for missing in list(state)[::23]:
        if missing.endswith(("num_batches_tracked", "stage0.0.w")):
            continue
        rest = {key: tensor for key, tensor in state.items() if key != missing}
        refused(run, tmp_path, ": ", {**content, "state_dict": rest})
        refused(run, tmp_path, ": ", {**content, "state_dict": {**rest, f"{missing}_": state[missing]}})


def test_stages_that_no_network_has(run, tmp_path, file):
    content = file("redimnet_resnet_small")
    state = dict(content["state_dict"])
    for name in list(state):
        if ".stage2." in name and (".red_dim_conv" in name or ".tcm" in name or ".exp_dim" in name):
            del state[name]
    refused(run, tmp_path, "its stage 2 has no context block, but an earlier one has", {**content, "state_dict": state})
    state = {key: tensor for key, tensor in content["state_dict"].items() if ".tcm.4." not in key}
    refused(run, tmp_path, "is not of four convolutions and attention (conv+att)", {**content, "state_dict": state})


def test_forms_are_those_of_the_network():
    from svq.importing.redimnet import CLASSES

    assert set(CLASSES.values()) == set(FORMS)
