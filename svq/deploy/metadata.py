"""What an exported network says about itself: JSON inside the file, so that it needs none beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from svq.config import from_dict, to_dict
from svq.errors import UserError
from svq.network import ModelConfig

FORMAT_VERSION = 1
KEY = "svq"  # of ONNX's metadata_props and of OpenVINO's rt_info


@dataclass(frozen=True)
class Metadata:
    """The content of an exported file.

    config: of the network that was exported; its front end says what `input` is.
    input: `features`, (B, T, F) log-mels as the config's front end gives them, or `waveform`, (B, samples) in [-1, 1].
    calibration: what turns scores into log-likelihood ratios; None where it is not known.
    frames: the fixed number of frames (for `waveform` of samples) that the file takes; None: any.
    precision: `float32`, `int8` or `int8-dynamic`. details: how it was quantized, for reports; of INT8 files
    `float_layers`, the names of all layers that compute in float.
    digest: of the graph with its weights, put in when the file is written: an .xml, whose weights are in its .bin, is
    another file for other weights of the same shapes.
    """

    config: ModelConfig
    input: str = "features"
    calibration: dict | None = None
    frames: int | None = None
    precision: str = "float32"
    details: dict = field(default_factory=dict)
    digest: str | None = None

    def dumps(self) -> str:
        """One line of JSON with sorted keys."""
        return json.dumps({"format": FORMAT_VERSION, **to_dict(self)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None, path) -> Metadata:
        """What `dumps` wrote. `path` is the file that holds it, for the message of the UserError."""
        if not text:
            raise UserError(f"{path}: holds a network, but not one that svq.bin.export made; export it from its "
                            "model folder or .svq file")
        try:
            tree = json.loads(text)
            version = tree.pop("format")
        except (ValueError, TypeError, AttributeError, KeyError):
            raise UserError(f"{path}: its metadata is not what svq.bin.export writes; export the model again") from None
        if version != FORMAT_VERSION:
            mend = "update svq" if isinstance(version, int) and version > FORMAT_VERSION else "export the model again"
            raise UserError(f"{path}: format version {version}, this svq reads {FORMAT_VERSION}; {mend}")
        found = from_dict(tree, cls, path)
        if found.input not in ("features", "waveform"):
            raise UserError(f"{path}: its input is {found.input!r}, neither features nor waveform; update svq")
        return found
