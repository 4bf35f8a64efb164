"""ReDimNet and ReDimNet2, as their authors and WeSpeaker write them: sizes, front ends, and where the tensors go.

IDRnD/ReDimNet and PalabraAI/redimnet2 publish files with the network's arguments (`model_config`) beside its tensors.
They say what no tensor does: the hop of the front end and whether it normalises waveforms. Published ReDimNets have a
frame every 15 ms (`hop_length` 240), ReDimNet2 every 10 ms.

WeSpeaker (wespeaker/models/redimnet.py, redimnet2.py): ReDimNet takes Kaldi's log-mels. ReDimNet2 takes those of its
authors, of normalised waveforms (examples/voxceleb/v2/conf/redimnet2.yaml); no tensor tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from svq.data.front_end_config import FrontEndConfig
from svq.data.mels import tables_of
from svq.importing.plan import Family, Origin, Plan, Rule, State, count
from svq.nets import options_of, redimnet, redimnet2
from svq.network import ModelConfig

RATE = 16000  # of all published files
KINDS = {"pt": "redimnet", "pt_mel": "redimnet", "tf": "redimnet2", "tf_mel": "redimnet2"}
CLASSES = {"convnext_like": "convnext", "basic_resnet": "resnet", "basic_resnet_fwse": "resnet_se"}
# Values that arguments of the network must have where a file gives them; other arguments follow from the tensors.
ONLY = {"block_1d_type": ("conv+att",), "block_2d_type": tuple(CLASSES), "pooling_func": ("ASTP",),
        "causal": ("none", False, None), "pad_right_samples": (None, 0), "before_pool_offset": (None, 0),
        "tf_optimized_arch": (False, None), "use_freq_pos_enc": (False, None), "att_dos": (None, {}),
        "is_subnet": (False, None), "feat_type": tuple(KINDS), "offset_fm_weights": (None, 0), "spec_in_channels": (1,)}
FROM_TENSORS = {"F", "C", "stages_setup", "group_divisor", "out_channels", "embed_dim", "num_classes", "class_dropout",
                "feat_agg_dropout", "head_activation", "global_context_att", "emb_bn", "return_all_outputs", "dual_agg",
                "agg_gnorm", "compress_tconvs", "fm_weigthing_type"}
FRONT_END = {"hop_length", "spec_params", "return_2d_output"}
# The same of the arguments of the front end (`spec_params`).
ONLY_SPEC = {"sample_rate": (RATE,), "n_fft": (512,), "win_length": (400,), "f_min": (20,), "f_max": (7600,),
             "do_preemph": (True,), "spec_norm": ("mn",), "eps": (1e-8,), "norm_signal": (True, False)}
TRAINING_SPEC = {"do_spec_aug", "freq_start_bin", "num_apply_spec_aug", "freq_mask_width", "time_mask_width"}
FILTERS = {"spec.torchfbank.2.mel_scale.fb": "redimnet", "spec.torchfbank.2.melbanks_pt": "redimnet2"}


def network(state: State, first: int) -> tuple[type, dict, int]:
    """Reads a network off its tensors: its class, its options, its mel channels. first: index of a stage's `down`.

    ValueError for stages that no network here has.
    """
    width = state["backbone.stem.0.weight"].shape[0]
    total = "backbone.fin_wght1d.w" if first else f"backbone.inputs_weights.{stages_of(state)}"
    size = state[total].shape[2]
    if size % width or size == 1:
        raise ValueError(f"its weights of earlier outputs are {list(state[total].shape)}, not one for each of the "
                         "numbers of a frame")
    net: dict = {"width": width, "group_width": min(group_widths(state))}
    downs, channels, slower, reductions = [], width, 1, []
    for stage in range(stages_of(state)):
        inside, _, stride, total_time = state[name_of(state, stage, f"{first}.weight")].shape
        channels *= stride
        downs.append((stride, total_time // slower, depth_of(state, stage), 100 * inside / channels))
        slower = total_time
        hidden = hidden_of(state, stage)
        if hidden:
            reductions.append(size // hidden)
        elif reductions:
            raise ValueError(f"its stage {stage} has no context block, but an earlier one has")
    strides, times, net["depths"], expansions = zip(*downs)
    if any(expansion != int(expansion) for expansion in expansions):
        raise ValueError("its stages have channels that are no whole percentage of those at their ends")
    net |= {"frequency_strides": strides, "expansions": tuple(map(int, expansions)), "reductions": tuple(reductions),
            "form": form_of(state)}
    head, pooled = state.get("backbone.head.weight"), size
    second = slower > 1
    if second:
        net |= {"time_strides": times, "group_norm": "backbone.stem_gnorm.weight" in state,
                "dual": any(re.match(r"backbone\.stage\d+_pre\.", name) for name in state), "head": head is not None}
        if head is not None:
            pooled = head.shape[0] * (size // channels)
            net["head_width"] = head.shape[0]
    else:
        net["pool_norm"] = "bn.running_mean" in state
    net["global_context"] = state["pool.linear1.weight"].shape[1] == 3 * pooled
    return redimnet2.ReDimNet2 if second else redimnet.ReDimNet, net, size // width


def stages_of(state: State) -> int:
    return count(state, r"backbone\.stage(\d+)(?:_pre)?\.")


def name_of(state: State, stage: int, rest: str) -> str:
    """Names a tensor of a stage, which stages with two outputs have under another name."""
    both = f"backbone.stage{stage}_pre.{rest}"
    return both if both in state else f"backbone.stage{stage}.{rest}"


def depth_of(state: State, stage: int) -> int:
    return count(state, rf"backbone\.stage{stage}(?:_pre)?\.(\d+)\.conv_block\.")


def hidden_of(state: State, stage: int) -> int:
    """Gives the channels inside a stage's context block; 0 where it has none. ValueError for a block of another kind."""
    base = rf"backbone\.stage{stage}(?:_1d|\.\d+)\."
    found = [tensor.shape[0] for name, tensor in state.items()
             if re.fullmatch(base + r"red_dim_conv\.0\.weight", name)]
    if found and not any(re.fullmatch(base + r"tcm\.4\.attention\.q_proj\.weight", name) for name in state):
        raise ValueError(f"the context block of its stage {stage} is not of four convolutions and attention (conv+att)")
    return found[0] if found else 0


def group_widths(state: State) -> list[int]:
    """Lists the channels in a group of all grouped convolutions of the blocks."""
    return [tensor.shape[1] for name, tensor in state.items()
            if re.search(r"\.conv_block\.(?:dwconvs\.0|conv1)\.weight$", name)]


def form_of(state: State) -> str:
    """Tells the form of the blocks, one of svq.nets.redimnet.FORMS, by the names of their layers."""
    if any(".conv_block.pwconv1." in name for name in state):
        return "convnext"
    return "resnet_se" if any(".conv_block.se." in name for name in state) else "resnet"


def arch_of(kind: type, net: dict) -> str:
    """Finds the network of a class with these options; where there is none, one that can be given them."""
    family = redimnet2 if kind is redimnet2.ReDimNet2 else redimnet
    for arch in family.NETWORKS:
        if all(options_of(arch)[name] == value for name, value in net.items()):
            return arch
    return "ReDimNetB2" if family is redimnet else "ReDimNet2B6" if net["head"] else "ReDimNet2B3"


def rules(state: State, first: int) -> list[Rule]:
    """Gives the rules for a network whose stages have their `down` at index `first`."""
    found = [Rule(r"backbone\.stem\.([01])\.(\w+)", r"stem.\1.\2"), Rule(r"backbone\.stem_gnorm\.(\w+)", r"stem_norm.0.\1"),
             Rule(r"backbone\.fin_wght1d\.w", "aggregate.scores", first_of),
             Rule(rf"backbone\.inputs_weights\.{stages_of(state)}", "aggregate.scores", first_of),
             Rule(r"backbone\.inputs_weights\.(\d+)", r"stages.\1.aggregate.scores", first_of),
             Rule(r"backbone\.stage(\d+)(?:_pre)?\.0\.w", r"stages.\1.aggregate.scores", first_of),
             Rule(r"backbone\.head\.(\w+)", r"head.\1"), Rule(r"pool\.(linear[12])\.(\w+)", r"pool.\1.\2"),
             Rule(r"bn\.(\w+)", r"bn.\1"), Rule(r"(?:linear|seg_1)\.(\w+)", r"embedding.\1")]
    stage, depths = r"backbone\.stage(\d+)(?:_pre)?", [depth_of(state, each) for each in range(stages_of(state))]
    found.append(Rule(rf"{stage}\.{first}\.(\w+)", r"stages.\1.down.\2"))
    for block in range(max(depths)):
        found += block_rules(rf"{stage}\.{first + 1 + block}\.conv_block", rf"stages.\1.blocks.{block}")
    for each, depth in enumerate(depths):
        found.append(Rule(rf"backbone\.stage{each}(?:_pre)?\.{first + 1 + depth}\.(\d)\.(\w+)",
                          rf"stages.{each}.squeeze.\1.\2"))
    return [*found, *context_rules(r"backbone\.stage(\d+)(?:_1d|\.\d+)", r"stages.\1.context"),
            Rule(r"backbone\.stage(\d+)(?:_up_2d)?\.\d+\.(weight|bias)", r"stages.\1.norms.0.\2"),
            Rule(r"backbone\.stage(\d+)_up_1d\.\d+\.(weight|bias)", r"stages.\1.norms.1.\2")]


def first_of(scores: torch.Tensor) -> torch.Tensor:
    return scores[0]


def block_rules(theirs: str, ours: str) -> list[Rule]:
    """Gives the rules for a block of any form. theirs: a pattern of its name, with one group; ours: its name here."""
    return [Rule(rf"{theirs}\.dwconvs\.0\.(\w+)", rf"{ours}.spread.\2"), Rule(rf"{theirs}\.norm\.(\w+)", rf"{ours}.norm.\2"),
            Rule(rf"{theirs}\.pwconv1\.(\w+)", rf"{ours}.mix.\2"),
            Rule(rf"{theirs}\.(conv|bn)([12])\.(\w+)", rf"{ours}.\2\3.\4"),
            Rule(rf"{theirs}\.conv([12])pw\.(\w+)", rf"{ours}.mix\2.\3"),
            Rule(rf"{theirs}\.se\.squeeze\.(\w+)", rf"{ours}.se.squeeze.\2"),
            Rule(rf"{theirs}\.se\.exitation\.(\w+)", rf"{ours}.se.excite.\2")]


def context_rules(theirs: str, ours: str) -> list[Rule]:
    """Gives the rules for a context block. theirs: a pattern of its name, with one group; ours: its name here."""
    names = {r"red_dim_conv\.0": "reduce", r"red_dim_conv\.1": "norm", "exp_dim_conv": "expand",
             r"tcm\.4\.attention\.q_proj": "attention.query", r"tcm\.4\.attention\.k_proj": "attention.key",
             r"tcm\.4\.attention\.v_proj": "attention.value", r"tcm\.4\.attention\.out_proj": "attention.out",
             r"tcm\.4\.layer_norm": "attention.norm1", r"tcm\.4\.final_layer_norm": "attention.norm2",
             r"tcm\.4\.feed_forward\.intermediate_dense": "attention.hidden",
             r"tcm\.4\.feed_forward\.output_dense": "attention.output"}
    convs = {r"dwconvs\.0": "spread", "norm": "norm", "pwconv1": "mix"}
    return [*(Rule(rf"{theirs}\.{name}\.(\w+)", rf"{ours}.{own}.\2") for name, own in names.items()),
            *(Rule(rf"{theirs}\.tcm\.([0-3])\.{name}\.(\w+)", rf"{ours}.convs.\2.{own}.\3") for name, own in convs.items())]


def check_arguments(given: Mapping, known: Mapping, others: set[str], where: str) -> None:
    """Raises ValueError for arguments of a file that no network or front end here follows."""
    for name, value in given.items():
        if name in known and value not in known[name]:
            raise ValueError(f"its {where} has {name} {value!r}, where {' or '.join(map(repr, known[name]))} is known here")
        if name not in known and name not in others:
            raise ValueError(f"its {where} has {name} {value!r}, which is not known here")


def front_end(state: State, options, num_mels: int) -> FrontEndConfig:
    """Reads the front end off the arguments in a file, and checks its filters; ValueError where it is not known here."""
    given = options.model_config
    if given is None:
        raise ValueError("no model_config is beside its tensors, which alone tells its front end: import the file as "
                         "published")
    check_arguments(given, ONLY, FROM_TENSORS | FRONT_END, "model_config")
    spec = given.get("spec_params") or {}
    if not isinstance(spec, Mapping):
        raise ValueError("its model_config has spec_params that are no settings")
    check_arguments(spec, ONLY_SPEC, TRAINING_SPEC, "spec_params")
    kind, hop = KINDS[given.get("feat_type", "pt")], given.get("hop_length", 160)
    if type(hop) is not int or 1000 * hop % RATE:
        raise ValueError(f"its model_config has hop_length {hop!r}, which is no whole number of milliseconds")
    if options.rate != RATE:
        raise ValueError(f"its front end is of {RATE} samples a second, not {options.rate}; leave --rate out")
    found = FrontEndConfig(RATE, num_mels, fbank=kind, hop_ms=1000 * hop // RATE,
                           waveform_normalize=bool(spec.get("norm_signal", False)))
    check_filters(state, found)
    return found


def check_filters(state: State, config: FrontEndConfig) -> None:
    """Checks the mel filters of a checkpoint, where it has any; ValueError where they are not ours."""
    for name, kind in FILTERS.items():
        if name not in state:
            continue
        theirs, ours = state[name].squeeze(), torch.from_numpy(tables_of(config).filters)
        theirs = theirs if kind == "redimnet" else theirs.t()
        if kind != config.fbank or theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-3):
            raise ValueError(f"its mel filters {name} {list(state[name].shape)} are not those of fbank {config.fbank} with "
                             f"{config.num_mels} channels")


def check_second(state: State, net: dict, given: Mapping) -> None:
    """Raises ValueError for a ReDimNet2 that pools frames as they are, not as maps, or has other groups in its norms."""
    if "time_strides" not in net:
        return
    groups = given.get("agg_gnorm")
    if groups not in (None, False, True) or type(groups) is int and groups:
        if type(groups) is not int or groups != net["width"]:
            raise ValueError(f"its model_config has agg_gnorm {groups!r}, where true or {net['width']} is known here")
    head = state.get("backbone.head.weight")
    if given.get("return_2d_output", False) is not True or head is not None and head.dim() != 4:
        raise ValueError("it pools frames (return_2d_output false), where ReDimNet2 pools maps (true) here")


def published(state: State, options) -> Plan:
    """Plans the import of a file of ReDimNet's and ReDimNet2's authors."""
    kind, net, num_mels = network(state, 2)
    config = front_end(state, options, num_mels)
    check_second(state, net, options.model_config)
    return Plan(ModelConfig(arch_of(kind, net), net, state["linear.weight"].shape[0], config), rules(state, 2))


def wespeaker_first(front_end_of) -> Family:
    """Describes WeSpeaker's ReDimNet. front_end_of: (num_mels, options) -> FrontEndConfig."""

    def plan(state: State, options) -> Plan:
        kind, net, num_mels = network(state, 0)
        return Plan(ModelConfig(arch_of(kind, net), net, state["seg_1.weight"].shape[0], front_end_of(num_mels, options)),
                    rules(state, 0))

    return Family("ReDimNet", ("backbone.stem.0.weight", "backbone.inputs_weights.1", "seg_1.weight"), plan)


def wespeaker_second(state: State, options) -> Plan:
    """Plans the import of WeSpeaker's ReDimNet2, which has the names of its authors."""
    kind, net, num_mels = network(state, 2)
    if kind is not redimnet2.ReDimNet2 or options.model_config is not None or any(name.startswith("spec.") for name in state):
        raise ValueError("it is a file of ReDimNet's authors: import it with --from redimnet")
    check_second(state, net, {"return_2d_output": "backbone.head.weight" in state})
    config = FrontEndConfig(options.rate, num_mels, fbank="redimnet2", waveform_normalize=True)
    return Plan(ModelConfig(arch_of(kind, net), net, state["linear.weight"].shape[0], config), rules(state, 2))


MARKS = ("backbone.stem.0.weight", "backbone.fin_wght1d.w", "pool.linear1.weight", "linear.weight")
SINGLE = {r"backbone\.stage0(_pre)?\.0\.w|backbone\.inputs_weights\.0": "weight of a single output"}
WESPEAKER_SECOND = Family("ReDimNet2", MARKS, wespeaker_second)
REDIMNET = Origin("redimnet", (Family("ReDimNet", MARKS, published),),
                  left_out={r"spec\..*": "front end", r"cls_head\..*": "classifier", **SINGLE})
