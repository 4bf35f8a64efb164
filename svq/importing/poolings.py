"""Poolings of two-dimensional networks as WeSpeaker and 3D-Speaker write them, and the embedding layers behind them.

wespeaker/models/pooling_layers.py, speakerlab/models/eres2net/pooling_layers.py. TSTP (means and deviations), TAP
(means) and TSDP (deviations) have no tensors; ASTP, MHASTP and MQMHASTP are attentive. seg_1 is the embedding layer;
seg_bn_1 (without scale and shift) and seg_2 are the second one, where there is one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from svq.importing.plan import Options, Rule, State, count

MOST_MELS = 128  # no speaker verification network is known to have more: a reading with more is ruled out
TOLD = ("tstp", "tap", "tsdp")  # poolings that the user may name, because no tensor does
POOLING_RULES = [
    Rule(r"pool\.(linear[12])\.(\w+)", r"pool.\1.\2"),
    Rule(r"pool\.heads_att_trans\.(\d+)\.att_0\.(\w+)", r"pool.queries.0.\1.0.\2"),
    Rule(r"pool\.heads_att_trans\.(\d+)\.att_1\.(\w+)", r"pool.queries.0.\1.2.\2"),
    Rule(r"pool\.n_query\.(\d+)\.heads_att_trans\.(\d+)\.att_0\.(\w+)", r"pool.queries.\1.\2.0.\3"),
    Rule(r"pool\.n_query\.(\d+)\.heads_att_trans\.(\d+)\.att_1\.(\w+)", r"pool.queries.\1.\2.2.\3"),
]
EMBEDDING_RULES = [*POOLING_RULES, Rule(r"seg_1\.(\w+)", r"embedding.\1"), Rule(r"seg_bn_1\.(\w+)", r"second.1.\1"),
                   Rule(r"seg_2\.(\w+)", r"second.2.\1")]


class Floors(NamedTuple):
    """Least variances of a toolkit's poolings. plain: added, in those without attention; attentive: in the others."""

    plain: float
    attentive: float


def pooling_of(state: State, embedding: torch.Tensor, channels: int, options: Options, floors: Floors,
               mels_a_band: int = 8) -> tuple[int, dict]:
    """Finds how many mel channels a network has, and its pooling: the options `pooling` and `variance_floor`.

    embedding: weight of the embedding layer. channels: of the last stage, which has a frequency for each `mels_a_band`
    mel channels. ValueError for tensors that do not fit, and where the user has to say what they do not tell.
    """
    if "pool.linear1.weight" in state:
        name, seen = "astp", state["pool.linear2.weight"].shape[0]
    elif "pool.heads_att_trans.0.att_0.weight" in state:
        name, seen = "mhastp", _size_of_heads(state, "pool.heads_att_trans")
    elif "pool.n_query.0.heads_att_trans.0.att_0.weight" in state:
        name, seen = "mqmhastp", _size_of_heads(state, "pool.n_query.0.heads_att_trans")
    else:
        num_mels, name = mel_channels(embedding.shape[1], channels, options.num_mels, options.pooling, mels_a_band)
        return num_mels, {"pooling": name, "variance_floor": floors.plain}
    if options.pooling:
        raise ValueError(f"its tensors tell that its pooling is {name}; leave --pooling {options.pooling} out")
    if seen % channels:
        raise ValueError(f"its pooling takes {seen} values, no multiple of the {channels} channels before it")
    return mels_a_band * seen // channels, {"pooling": name, "variance_floor": floors.attentive}


def _size_of_heads(state: State, place: str) -> int:
    pattern = place.replace(".", r"\.") + r"\.(\d+)\."
    return count(state, pattern) * state[f"{place}.0.att_0.weight"].shape[1]


def mel_channels(statistics: int, channels: int, said: int = 0, pooling: str = "",
                 mels_a_band: int = 8) -> tuple[int, str]:
    """Finds how many mel channels a network with a pooling without tensors has, and which pooling it is.

    statistics: number of values that its pooling gives. channels: of the last stage, which has a frequency for each
    `mels_a_band` mel channels. said, pooling: the user's number of mel channels, 0: none, and pooling, empty: none. A
    pooling has no parameters and leaves no other trace: with twice the mel channels, means (TAP) or deviations (TSDP)
    alone give as many values as both together (TSTP). ValueError for numbers that do not fit, and where several
    readings are possible and the user has not said which.
    """
    bands, rest = divmod(statistics, channels)
    both, one = mels_a_band * bands // 2, mels_a_band * bands
    if rest or not bands:
        raise ValueError(f"its embedding layer takes {statistics} values, no multiple of the {channels} channels before it")
    readings = {"tstp": both, "tap": one, "tsdp": one}
    if bands % 2:
        del readings["tstp"]
    fitting = {name: mels for name, mels in readings.items() if pooling in ("", name) and said in (0, mels)}
    if not said and "tstp" in fitting and one > MOST_MELS:
        fitting = {"tstp": both}
    if not fitting:
        given = " ".join([f"--num-mels {said}"] * bool(said) + [f"--pooling {pooling}"] * bool(pooling))
        known = ", or ".join([f"means and deviations (tstp) of {both} mel channels"] * (not bands % 2) +
                             [f"means (tap) or deviations (tsdp) of {one}"])
        raise ValueError(f"its embedding layer takes {statistics} values, which are not those of {given} but of {known}")
    if len(fitting) == 1:
        return next((mels, name) for name, mels in fitting.items())
    if "tstp" in fitting:
        raise ValueError(f"its pooling of {statistics} values may be of means and deviations and {both} mel channels, or of "
                         f"means or deviations alone and {one}: say which, with --pooling tstp, --pooling tap or --pooling "
                         "tsdp")
    raise ValueError(f"its pooling gives means or deviations alone of {one} mel channels: say which, with --pooling tap or "
                     "--pooling tsdp")
