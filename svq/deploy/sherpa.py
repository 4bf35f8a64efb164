"""Files for sherpa-onnx: what its C++ speaker extractor reads beside the graph, and what its front end can be.

sherpa-onnx (sherpa-onnx/csrc/speaker-embedding-extractor-model.cc, features.cc) computes Kaldi's log-mels itself, 80 of
them up to 400 Hz below the Nyquist frequency, frames mirrored at the edges, and compares plain cosines. So the mean
embedding that our scores subtract goes into the graph, and so does the scaling to length 1: the mean of several
enrolled embeddings, which sherpa-onnx takes as they come, is then ours.
"""

from __future__ import annotations

import dataclasses

from svq.backend.calibration import PLAIN, Calibration, Mismatch, mean_text, scoring_of
from svq.backend.metrics import bayes_threshold
from svq.errors import UserError, require
from svq.files import fingerprint

MELS, HIGH_HZ = 80, -400.0
FULL_SCALES = {1.0: "1", 32768.0: "0"}  # what a sample at full scale may count: `normalize_samples`
OUTPUT = "embedding"


def for_sherpa(graph, path):
    """`graph` (svq.deploy.export.Exported) as sherpa-onnx takes it, to be written to `path`.

    With `properties` for its extractor, and with embeddings less the mean of the calibration, of length 1. UserError
    for what it could not run or would run wrongly: another suffix than .onnx, waveforms as input, one duration alone,
    another front end.
    """
    config = graph.metadata.config
    reason = _impossible(graph.metadata, str(path))
    if reason is not None:
        raise UserError(f"{path}: {reason}")
    properties = {
        "framework": "wespeaker", "language": "unknown", "sample_rate": str(config.front_end.rate),
        "output_dim": str(config.embed_dim), "normalize_samples": FULL_SCALES[config.front_end.full_scale],
        "feature_normalize_type": "global-mean" if config.front_end.mean_normalize else "",
    }
    calibration, mean = graph.metadata.calibration, None
    if calibration is not None:
        try:
            mean = scoring_of(Calibration.from_dict(calibration, path), None)
        except Mismatch as error:
            raise UserError(f"{path}: {error}") from None
        if mean is not None and len(mean) != config.embed_dim:
            raise UserError(f"{path}: the calibration's mean embedding has {len(mean)} values, the network's embeddings "
                            f"have {config.embed_dim}; take the calibration of this model")
        calibration = {**calibration, "mean": PLAIN}
    network = graph.metadata.network
    if mean is not None and network is not None:  # voices less a mean are others than those of the same network
        network = fingerprint(network, mean_text(mean))
    metadata = dataclasses.replace(graph.metadata, calibration=calibration, network=network, scaled=True)
    return dataclasses.replace(graph, model=_normalized(graph.model, mean), metadata=metadata, properties=properties)


def _impossible(metadata, path: str) -> str | None:
    """What sherpa-onnx cannot do of all that this file needs, and the mend; None: nothing."""
    front_end = metadata.config.front_end
    if not path.endswith(".onnx"):
        return "sherpa-onnx takes .onnx files; name it so"
    if metadata.input != "features":
        return "sherpa-onnx computes its features itself; leave --front-end out"
    if metadata.frames is not None:
        return "sherpa-onnx gives recordings of any duration; leave --seconds out"
    settings = (("fbank", front_end.fbank, "kaldi"), ("num_mels", front_end.num_mels, MELS),
                ("window", front_end.window, "povey"), ("preemphasis", front_end.preemphasis, 0.97),
                ("variance_normalize", front_end.variance_normalize, False))
    for name, own, needed in settings:
        if own != needed:
            return f"its front end has {name} {own}, sherpa-onnx's {needed}; train it with that"
    if front_end.full_scale not in FULL_SCALES:
        return (f"its front end has full_scale {front_end.full_scale:g}, sherpa-onnx's 1 or 32768; train it with one of "
                "them")
    return None


def differences(front_end) -> list[str]:
    """What sherpa-onnx computes otherwise than a FrontEndConfig that it can take, each a line with the mend: embeddings
    differ a little."""
    nyquist, found = front_end.rate / 2, []
    highest = front_end.high_hz if front_end.high_hz > 0 else nyquist + front_end.high_hz
    if highest != nyquist + HIGH_HZ:
        found.append(f"the network's filters end at {highest:g} Hz, sherpa-onnx's at {nyquist + HIGH_HZ:g} Hz; train with "
                     f"model.front_end.high_hz={HIGH_HZ:g} for the same")
    if front_end.snip_edges:
        found.append("the network's frames are whole ones, sherpa-onnx's are mirrored at the edges; train with "
                     "model.front_end.snip_edges=false for the same")
    return found


def threshold_of(calibration: Calibration, p_target: float) -> float:
    """The cosine from which on Bayes' decision for this prior of a target trial is to accept: what sherpa-onnx's
    speaker manager takes as its threshold."""
    return (bayes_threshold(p_target) - calibration.offset) / calibration.slope


def _normalized(model, mean):
    """A copy of onnx.ModelProto `model` whose output is less `mean` (D,), or None, and scaled to length 1."""
    onnx = require("onnx")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    plain = _renamed(graph, OUTPUT)
    if mean is not None:
        graph.initializer.append(onnx.numpy_helper.from_array(mean.astype("float32")[None], "mean_embedding"))
        graph.node.append(onnx.helper.make_node("Sub", [plain, "mean_embedding"], ["centred"], name="/centre/Sub"))
        plain = "centred"
    graph.node.append(onnx.helper.make_node("LpNormalization", [plain], [OUTPUT], name="/length/LpNormalization",
                                            axis=-1, p=2))
    return made


def _renamed(graph, name: str) -> str:
    """Gives the tensor of that name another one, which it returns, in all nodes."""
    other = f"{name}_before"
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [other if each == name else each for each in ends]
    return other
