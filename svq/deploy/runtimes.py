"""One interface to a network in torch, ONNX Runtime or OpenVINO, `load_embedder`, and the metadata of exported files.

For the same float network the embeddings of all three agree to float rounding. All run on the CPU, with as many threads
as asked for and none pinned to a core, because the jobs of a recipe share the machine. torch
runs on a GPU if asked to.

An exported file holds its `Metadata` as JSON, so it needs no file beside it.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from svq.config import from_dict, to_dict
from svq.data.numpy_front_end import NumpyFrontEnd
from svq.deploy.seal import check_seal
from svq.errors import UserError, require
from svq.files import fingerprint, require_file, sha256_of
from svq.hardware import has_vnni
from svq.network import ModelConfig

BACKENDS = ("torch", "onnxruntime", "openvino")
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, FORMAT_VERSION)  # 1 is 2 without `weights` and `scaled`
KEY = "svq"  # key in ONNX's metadata_props and in OpenVINO's rt_info
BIN_KEY = "svq_bin"  # key in rt_info: the SHA-256 of the .bin that belongs to an .xml


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported file.

    config: of the network that was exported; its front end makes the `input`.
    input: `features`, (B, T, F) log-mels as the config's front end gives them, or `waveform`, (B, samples) in [-1, 1].
    calibration: of scores to log-likelihood ratios; None where there is none.
    frames: the fixed number of frames (samples for `waveform`) that the file takes; None: any.
    precision: `float32`, `int8` or `int8-dynamic`. details: how the graph was quantized, for reports. INT8 files have
    `float_layers` there, the names of all layers that compute in float, and `int8_weights`, `safe` or `8bit`
    (svq.deploy.int8).
    scaled: whether the graph itself subtracts the calibration's mean embedding and scales embeddings to length 1; then
    nobody may subtract another mean.
    weights: `packed` in a compact file, whose quantized weights are codes, else `plain`.
    digest: of the graph with its weights, put in when the file is written. So an .xml, whose weights are in its .bin,
    differs for other weights of the same shapes.
    network: svq.models.network_digest of the network that was exported; its packed file has the same.
    """

    config: ModelConfig
    input: str = "features"
    calibration: dict | None = None
    frames: int | None = None
    precision: str = "float32"
    details: dict = field(default_factory=dict)
    digest: str | None = None
    network: str | None = None
    weights: str = "plain"
    scaled: bool = False

    @property
    def saturates(self) -> bool:
        """Whether its sums may saturate on x86 without VNNI, which adds in 16 bits; see svq.deploy.int8."""
        return self.precision != "float32" and self.details.get("int8_weights") != "safe"

    def dumps(self) -> str:
        """Writes the metadata as one line of JSON with sorted keys."""
        return json.dumps({"format": FORMAT_VERSION, **to_dict(self)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None, path) -> Metadata:
        """Reads metadata that `dumps` wrote. path: the file that holds it, to be named in messages.

        UserError for a text that is missing, damaged, or of a version that this svq does not read.
        """
        if not text:
            raise UserError(f"{path}: holds a network, but not one that svq.bin.export made; export it from its "
                            "model folder or .svq file")
        try:
            tree = json.loads(text)
            version = tree.pop("format")
        except (ValueError, TypeError, AttributeError, KeyError):
            raise UserError(f"{path}: its metadata is not what svq.bin.export writes; export the model again") from None
        if version not in READABLE_VERSIONS:
            mend = "update svq" if isinstance(version, int) and version > FORMAT_VERSION else "export the model again"
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise UserError(f"{path}: format version {version}, this svq reads {readable}; {mend}")
        found = from_dict(tree, cls, path)
        if found.input not in ("features", "waveform"):
            raise UserError(f"{path}: its input is {found.input!r}, neither features nor waveform; update svq")
        if found.weights not in ("plain", "packed"):
            raise UserError(f"{path}: its weights are {found.weights!r}, neither plain nor packed; update svq")
        return found


class Embedder:
    """A network that runs in one of BACKENDS.

    config: its ModelConfig. calibration: the file's calibration of scores, or None. backend: the runtime. input: the
    network's own input, `features` or `waveform`. frames: the only number of frames (samples for `waveform`) that it
    takes, or None.
    """

    def __init__(self, metadata: Metadata, backend: str, run: Callable[[np.ndarray], np.ndarray], path):
        self.metadata, self.backend, self.path = metadata, backend, os.fspath(path)
        self.config, self.calibration = metadata.config, metadata.calibration
        self.input, self.frames = metadata.input, metadata.frames
        self._run, self._front_end = run, None

    @functools.cached_property
    def network(self) -> str:
        """A digest of the network, the same for a packed file and its exports. A file from before exports held it has a
        digest of its own."""
        told = self.metadata.network or self.metadata.digest
        return told or fingerprint(*(("file", file) for file in files_of(self.path)))

    @property
    def arithmetic(self) -> str:
        """`float32`, or the precision and digest of an INT8 file: each INT8 file gives embeddings of its own."""
        precision = self.metadata.precision
        return precision if precision == "float32" else f"{precision}:{self.metadata.digest or self.network}"

    @property
    def front_end(self):
        """The front end: waveforms (B, T) -> this network's features (B, frames, num_mels), float32 arrays.

        `front_end.bank.shortest` is the fewest samples that it takes. It is made at its first use: in torch where torch
        runs the network, elsewhere in NumPy.
        """
        if self._front_end is None:
            self._front_end = (_TorchFrontEnd if self.backend == "torch" else NumpyFrontEnd)(self.config.front_end)
        return self._front_end

    def features(self, feats: np.ndarray) -> np.ndarray:
        """Embeds features (B, T, F) float32, normalized as the config's front end does; gives (B, D) float32.

        ValueError for another shape. UserError where the network has its front end inside, and for another number of
        frames than the only one that it takes.
        """
        mels = self.config.front_end.num_mels
        if feats.ndim != 3 or feats.shape[1] < 1 or feats.shape[2] != mels:
            raise ValueError(f"expected features (B, T, {mels}), got shape {feats.shape}")
        if self.input == "waveform":
            raise UserError(f"{self.path}: has its front end inside and takes waveforms only; export it without "
                            "--front-end to give it features")
        return self(feats)

    def waveforms(self, x: np.ndarray) -> np.ndarray:
        """Embeds waveforms (B, samples) float32 in [-1, 1] at the front end's rate; gives (B, D) float32.

        ValueError for another shape, UserError for less than one frame.
        """
        if x.ndim != 2:
            raise ValueError(f"expected waveforms (B, samples), got shape {x.shape}")
        shortest = self.front_end.bank.shortest
        if x.shape[1] < shortest:
            raise UserError(f"{x.shape[1]} samples are too few, the model takes {shortest} at least; give a longer recording")
        return self(x if self.input == "waveform" else self.front_end(np.ascontiguousarray(x, dtype=np.float32)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Embeds the network's own input, (B, T, F) or (B, samples) by `input`; gives (B, D) float32."""
        if self.frames is not None and x.shape[1] != self.frames:
            what = "samples" if self.input == "waveform" else "frames"
            raise UserError(f"{self.path}: exported for {self.frames} {what}, not {x.shape[1]}; export it without "
                            "--seconds to take any number")
        found = self._run(np.ascontiguousarray(x, dtype=np.float32))
        if found.shape != (len(x), self.config.embed_dim):
            raise UserError(f"{self.path}: gives {found.shape}, where its metadata promise embeddings ({len(x)}, "
                            f"{self.config.embed_dim}); export it again")
        return found


class _TorchFrontEnd:
    """The front end of svq.data.frontend, for NumPy arrays."""

    def __init__(self, config):
        from svq.data.frontend import FrontEnd

        self._front_end = FrontEnd(config)
        self.bank = self._front_end.bank

    def __call__(self, x: np.ndarray) -> np.ndarray:
        import torch

        return self._front_end(torch.from_numpy(x)).numpy()


def files_of(path: str) -> list[str]:
    """Gives the files of a model that is no folder: the path itself, and with an .xml the .bin that has its weights.

    UserError where the .bin is missing.
    """
    if not path.endswith(".xml"):
        return [path]
    weights = path.removesuffix(".xml") + ".bin"
    if os.path.exists(path) and not os.path.exists(weights):
        raise UserError(f"{weights}: no such file; it belongs to {path}")
    return [path, weights]


def bytes_of(path: str) -> int:
    """Counts the bytes on disk of a model that is no folder, see `files_of`."""
    return sum(os.path.getsize(file) for file in files_of(path))


def load_embedder(path, backend: str | None = None, num_threads: int = 1, precision: int | None = None,
                  device: str = "cpu") -> Embedder:
    """Loads a network, ready to run. path: a model folder, a packed .svq, or an exported .onnx or .xml file.

    backend: one of BACKENDS; None takes torch for folders and .svq, onnxruntime for .onnx, openvino for .xml. OpenVINO
        reads .onnx too. num_threads: CPU threads; torch has one number for the whole process. precision: bits of a
        nested model, see svq.models.load_model. device: cpu or cuda, for torch; exported files run on the CPU alone.
    UserError for a backend that is unknown, not installed or cannot run such a file, and for a file that is missing,
    damaged or not made by svq.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1]
    own = {".onnx": "onnxruntime", ".xml": "openvino"}.get(suffix, "torch")
    backend = own if backend is None else backend
    if backend not in BACKENDS:
        raise UserError(f"backend '{backend}' is unknown; known: {', '.join(BACKENDS)}")
    if num_threads < 1:
        raise UserError(f"number of threads is {num_threads}; it must be at least 1")
    if backend not in {".onnx": BACKENDS[1:], ".xml": BACKENDS[2:]}.get(suffix, BACKENDS[:1]):
        mend = f"leave the backend out, or take {own}" if own != "torch" else "export it first: svq.bin.export"
        raise UserError(f"{path}: {backend} cannot run it; {mend}")
    if own != "torch" and not os.path.isfile(path):
        raise UserError(f"{path}: no such file; svq.bin.export makes it")
    if precision is not None and backend != "torch":
        raise UserError(f"{path}: an exported network has one precision; leave the precision out")
    is_sealed = suffix == ".onnx" and check_seal(path)
    metadata, run = _LOADERS[backend](path, num_threads, *([precision, device] if backend == "torch" else []))
    if metadata.weights != "plain" and not is_sealed:
        raise UserError(f"{path}: has lost the digest of its content: cut short or altered; copy or export it again")
    return Embedder(metadata, backend, run, path)


def _load_torch(path: str, num_threads: int, precision: int | None, device: str):
    try:
        torch = require("torch")
    except UserError as error:
        raise UserError(f"{path}: {error}; or take the .onnx that svq.bin.export makes of it where torch is") from None
    from svq.models import load_model, network_digest
    from svq.quant.api import freeze_

    torch.set_num_threads(num_threads)
    net, config = load_model(path, precision)
    network = network_digest(net, config)
    net = freeze_(net).to(device, memory_format=torch.channels_last)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(x).to(device)).float().cpu().numpy()

    return Metadata(config, calibration=packed_calibration(path), network=network), run


def packed_calibration(path) -> dict | None:
    """Reads the calibration in a packed .svq that is known to be valid; None where it has none, and for other files."""
    from safetensors import safe_open

    if not os.fspath(path).endswith(".svq"):
        return None
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["svq"]).get("calibration")


def _load_onnxruntime(path: str, num_threads: int):
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3  # errors only: they come as exceptions, and a recipe's log is for people
    options.use_deterministic_compute = True
    # Threads that wait by spinning take the cores from the other jobs of a recipe.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if has_vnni() is not True:
        # Without VNNI this adds products of 8-bit weights in 32 bits; safe weights stay as fast. With VNNI it would
        # change nothing and take three times as long.
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = ort.InferenceSession(require_file(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise UserError(_damaged(path, "an ONNX model", error)) from None
    metadata = Metadata.loads(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    name = session.get_inputs()[0].name
    return metadata, _or_one_line(path, lambda x: session.run(None, {name: x})[0])


def _load_openvino(path: str, num_threads: int):
    openvino = require("openvino")
    core = openvino.Core()
    try:
        model = core.read_model(require_file(path))
    except RuntimeError as error:
        raise UserError(_damaged(path, "an OpenVINO or ONNX model, with its .bin beside an .xml", error)) from None
    metadata = Metadata.loads(_openvino_info(model), path)
    if model.has_rt_info([BIN_KEY]):
        _, weights = files_of(path)
        if sha256_of(weights) != model.get_rt_info([BIN_KEY]).astype(str):
            raise UserError(f"{weights}: not the weights of {path}: another file's, damaged or altered; copy both, or export "
                            "it again")
    if metadata.saturates and has_vnni() is False:
        raise UserError(f"{path}: sums of its 8-bit weights saturate in OpenVINO on this processor, which has no VNNI; "
                        "export it with --int8-weights safe, or run its .onnx in onnxruntime")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(num_threads),
        "INFERENCE_PRECISION_HINT": "f32",  # else a machine with bfloat16 units gives other embeddings
        "ENABLE_CPU_PINNING": "NO",  # every job of a recipe would sit on the first core
    }
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(x: np.ndarray) -> np.ndarray:
        # OpenVINO 2026.4.1 embeds INT8 x-vectors otherwise in a batch than alone: the cosine may be as low as 0.89.
        rows = [x] if metadata.precision == "float32" else np.split(x, len(x))
        return np.concatenate([request.infer([row])[0] for row in rows])

    return metadata, _or_one_line(path, run)


def _or_one_line(path: str, run: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Wraps `run` so that its errors become a UserError: those of the runtimes have no base class of their own."""
    def checked(x: np.ndarray) -> np.ndarray:
        try:
            return run(x)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: its network does not run on {x.shape}: {reason}; export it again") from None

    return checked


def _openvino_info(model) -> str | None:
    """Reads the metadata's text from rt_info, where OpenVINO also keeps an ONNX file's metadata_props."""
    for keys in ([KEY], ["framework", KEY]):
        if model.has_rt_info(keys):
            return model.get_rt_info(keys).astype(str)
    return None


def _damaged(path: str, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[-1].strip()[:200]
    return f"{path}: not {what} that can be read: {reason}; copy or export it again"


_LOADERS = {"torch": _load_torch, "onnxruntime": _load_onnxruntime, "openvino": _load_openvino}
