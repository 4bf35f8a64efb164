"""Says which front end an ONNX file expects: nothing in its graph tells, so it goes by who wrote the file.

Files for sherpa-onnx say in their metadata what sherpa-onnx feeds them (its features.cc and
speaker-embedding-extractor-model.cc): Kaldi's log-mels up to 400 Hz below the Nyquist frequency, frames mirrored at the
edges; samples in [-1, 1] where `normalize_samples` is 1, else on the 16-bit scale; the mean subtracted only where
`feature_normalize_type` is global-mean. WeSpeaker and 3D-Speaker write no metadata, but name input and output in a way
of their own (wespeaker/bin/export_onnx.py, speakerlab/bin/export_speaker_embedding_onnx.py).
"""

from __future__ import annotations

from dataclasses import replace

from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.importing.onnx_graph import Graph
from svq.importing.plan import Options
from svq.importing.toolkits import threedspeaker_front_end, wespeaker_front_end

TOOLKITS = {"wespeaker": wespeaker_front_end, "3dspeaker": threedspeaker_front_end}
SHERPA = "sherpa-onnx"
FRONT_ENDS = (*TOOLKITS, SHERPA)
NAMES = {("feats", "embs"): "wespeaker", ("feature", "embedding"): "3dspeaker"}  # of input and output
FRAMEWORKS = {"wespeaker": "0", "3d-speaker": "1"}  # of sherpa-onnx, and what normalize_samples is where it is missing


def front_end_of(graph: Graph, num_mels: int, options: Options) -> tuple[FrontEndConfig, str]:
    """Finds the front end of a file whose network takes `num_mels` log-mels; gives it, and a line that says why.

    UserError where the file does not tell and the user has not said, and for metadata that no front end here can do.
    """
    is_sherpa = "framework" in graph.metadata
    name = options.front_end or (SHERPA if is_sherpa else NAMES.get((graph.input, graph.output)))
    if name is None:
        raise UserError(f"{graph.path}: does not say which features it takes (its input is {graph.input}, its output "
                        f"{graph.output}, and it has no metadata); say whose front end, with --front-end {' or '.join(TOOLKITS)}")
    if name not in FRONT_ENDS:
        raise UserError(f"--front-end {name}: known are {', '.join(FRONT_ENDS)}")
    if is_sherpa:
        options = replace(options, rate=_rate(graph, options))
    if name != SHERPA:
        said = "as said" if options.front_end else f"as its input {graph.input} and output {graph.output} tell"
        return TOOLKITS[name](num_mels, options), f"front end of {name}, {said}"
    if not is_sherpa:
        raise UserError(f"{graph.path}: --front-end {SHERPA}, but it has no metadata of {SHERPA}; say whose it is, with "
                        f"--front-end {' or '.join(TOOLKITS)}")
    return _sherpa(graph, num_mels, options.rate)


def _rate(graph: Graph, options: Options) -> int:
    text = graph.metadata.get("sample_rate", str(options.rate))
    if not text.isdecimal() or not 1_000 <= int(text) <= 768_000:
        raise UserError(f"{graph.path}: its metadata give sample_rate {text[:40]!r}, no number of samples a second; copy the "
                        "file again")
    if options.rate not in (Options.rate, int(text)):
        raise UserError(f"{graph.path}: --rate {options.rate}, but its metadata say {text}; leave the option out")
    return int(text)


def _sherpa(graph: Graph, num_mels: int, rate: int) -> tuple[FrontEndConfig, str]:
    said = graph.metadata
    if said["framework"] not in FRAMEWORKS:
        raise UserError(f"{graph.path}: a file for sherpa-onnx of framework {said['framework'][:40]!r}, whose front end is "
                        f"not known here; known are {', '.join(FRAMEWORKS)}")
    scale = said.get("normalize_samples", said.get("normalize_features", FRAMEWORKS[said["framework"]]))
    kind = said.get("feature_normalize_type", "")
    if scale not in ("0", "1") or kind not in ("", "global-mean"):
        raise UserError(f"{graph.path}: its metadata give normalize_samples {scale[:40]!r} and feature_normalize_type "
                        f"{kind[:40]!r}, where 0 or 1 and global-mean or none are known; update svq")
    front_end = FrontEndConfig(rate, num_mels, mean_normalize=kind == "global-mean", high_hz=-400.0, snip_edges=False,
                               full_scale=1.0 if scale == "1" else 32768.0)
    note = "front end of sherpa-onnx, by its metadata"
    if not kind:
        note += ("; they name no feature_normalize_type, so no mean is subtracted: for the front end that it was trained "
                 f"with take --front-end {said['framework'].replace('-', '')}")
    return front_end, note
