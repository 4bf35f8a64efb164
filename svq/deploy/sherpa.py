"""Files for sherpa-onnx: the metadata that its C++ speaker extractor reads, and checks against its front end.

sherpa-onnx (sherpa-onnx/csrc/speaker-embedding-extractor-model.cc, features.cc) computes Kaldi's log-mels itself: 80 of
them, up to 400 Hz below the Nyquist frequency, frames mirrored at the edges. It compares plain cosines. So the graph
itself subtracts the mean embedding that our scores subtract, and scales to length 1: sherpa-onnx averages enrolled
embeddings as they come, and the average is then the same as ours.
"""

from __future__ import annotations

import dataclasses

from svq.backend.calibration import PLAIN, Calibration, Mismatch, mean_text, scoring_of
from svq.backend.metrics import bayes_threshold
from svq.errors import UserError, require
from svq.files import fingerprint

MELS, HIGH_HZ = 80, -400.0
FULL_SCALES = {1.0: "1", 32768.0: "0"}  # possible values of a sample at full scale -> `normalize_samples`
OUTPUT = "embedding"


def for_sherpa(graph, path):
    """Prepares a graph, a svq.deploy.export.Exported, for sherpa-onnx; it is to be written to `path`.

    The result has `properties` for sherpa-onnx's extractor. It subtracts the calibration's mean from its embeddings and
    scales them to length 1. UserError for a graph that sherpa-onnx cannot run or would run wrongly: another suffix than
    .onnx, waveforms as input, a fixed duration, another front end.
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
    if mean is not None and network is not None:  # embeddings less a mean cannot be compared with the network's own
        network = fingerprint(network, mean_text(mean))
    metadata = dataclasses.replace(graph.metadata, calibration=calibration, network=network, scaled=True)
    return dataclasses.replace(graph, model=_normalized(graph.model, mean), metadata=metadata, properties=properties)


def _impossible(metadata, path: str) -> str | None:
    """Says why sherpa-onnx cannot run this file, and the mend; None where it can."""
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
    """Lists where sherpa-onnx's features differ from a FrontEndConfig that it can take, a line each with the mend.

    Embeddings differ a little then.
    """
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
    """Computes the threshold for sherpa-onnx's speaker manager: accept trials whose cosine is at least this.

    It is Bayes' threshold for a target prior of `p_target`, by the calibration.
    """
    return (bayes_threshold(p_target) - calibration.offset) / calibration.slope


def _normalized(model, mean):
    """Copies an onnx.ModelProto and lets it subtract `mean` (D,), or None, and scale its output to length 1."""
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
    """Renames a tensor in all nodes; returns its new name."""
    other = f"{name}_before"
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [other if each == name else each for each in ends]
    return other
