"""Imports the network in an ONNX file: recognises it by its graph, fills ours, and runs both side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from svq.errors import UserError, require
from svq.importing.made import Imported, check_arch, check_mels, uncommon
from svq.importing.onnx_front_ends import front_end_of
from svq.importing.onnx_graph import Graph, read_graph
from svq.importing.onnx_match import matched
from svq.importing.onnx_networks import NETWORKS, Guess, OtherKind
from svq.importing.plan import Options, State
from svq.importing.source import find_source
from svq.network import FrontEndConfig, ModelConfig, load_state

ORIGIN = "onnx"
OUR_KEY = "svq"  # of the metadata of files that svq.bin.export writes
LENGTHS = (61, 200, 347)  # frames that both networks are run on
LARGEST_CHANGE = 1e-5  # between the two, relative to the largest number of the embedding
LEAST_SPREAD = 1e-3  # between embeddings of different features, relative to their largest number


def import_onnx(path, arch: str | None = None, options: Options = Options()) -> Imported:
    """Imports the network in the ONNX file `path`, or in the one .onnx of an archive.

    arch: the architecture that it must be; None: any. UserError, one line, for a file that is none, a network that is
    not known here, a front end that is not told, and embeddings that are not those of the file within LARGEST_CHANGE.
    """
    graph = read_graph(find_source(path, (".onnx",)))
    if OUR_KEY in graph.metadata:
        raise UserError(f"{graph.path}: svq exported it; take the model folder or .svq file that it was made from")
    guess, state, folded = recognised(graph, replace(options, num_mels=graph.shape[2] or options.num_mels))
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise UserError(f"{graph.path}: its weights for {name} hold values that are not finite; copy the file again")
    front_end, why = front_end_of(graph, guess.num_mels, options)
    config = _config(guess, front_end, folded)
    check_mels(graph.path, config, options)
    check_arch(graph.path, config, arch)
    net = config.build().eval()
    load_state(net, state, graph.path)
    change = largest_change(graph, net, config)
    if not change <= LARGEST_CHANGE:
        raise UserError(f"{graph.path}: looks like {config.arch}, but its embeddings differ from those of that network by "
                        f"{change:.2g} of the largest number, where {LARGEST_CHANGE:g} is rounding: another network of the "
                        f"same layers; {graph.summary()}")
    notes = (why, f"beside the file in ONNX Runtime: the largest difference is {change:.1e} of the largest number of an "
                  "embedding")
    if folded:
        notes += (f"{len(folded)} batch norms are folded into the layers before them, as in the file",)
    return Imported(net, config, len(state), {}, notes)


def recognised(graph: Graph, told: Options) -> tuple[Guess, State, dict[str, str]]:
    """Finds the network that a graph is, the state dict of ours, and the norms that are folded in it.

    told: mel channels, as the file or the user says, and the pooling. UserError where it is none of NETWORKS.
    """
    if not graph.weighted:
        raise UserError(f"{graph.path}: no network with weights; {graph.summary()}")
    reasons = []
    for name, guess_of in NETWORKS.items():
        try:
            guess = guess_of(graph, told)
            with torch.device("meta"):
                net = _config(guess, FrontEndConfig(num_mels=guess.num_mels)).build()
            return guess, *matched(graph, net, guess.num_mels)
        except (OtherKind, LookupError, TypeError, ZeroDivisionError):
            continue
        except (ValueError, UserError) as error:
            reasons.append(f"; no {name}: {error}")
    raise UserError(f"{graph.path}: none of the networks that are recognised in ONNX ({', '.join(NETWORKS)}): "
                    f"{graph.summary()}{''.join(reasons)}")


def _config(guess: Guess, front_end: FrontEndConfig, folded: dict[str, str] | None = None) -> ModelConfig:
    config = ModelConfig(guess.arch, guess.net, guess.embed_dim, front_end, folded=folded or None)
    return ModelConfig(guess.arch, uncommon(config), guess.embed_dim, front_end, folded=folded or None)


@torch.inference_mode()
def largest_change(graph: Graph, net: torch.nn.Module, config: ModelConfig) -> float:
    """Runs the file and `net` on random features; gives the largest difference of their embeddings, relative to the
    largest number of an embedding. UserError where ONNX Runtime cannot run the file."""
    runtime = require("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = torch.get_num_threads()
    random, changes, made = np.random.default_rng(0), [], []
    batch, frames, mels = graph.shape[0] or 1, graph.shape[1], config.front_end.num_mels
    try:
        session = runtime.InferenceSession(graph.content, settings, providers=["CPUExecutionProvider"])
        for length in (frames,) * 3 if frames else LENGTHS:
            feats = random_features(random, batch, length, mels)
            theirs = session.run(None, {graph.input: feats})[0]
            ours = net(torch.from_numpy(feats)).numpy()
            if theirs.size != ours.size:
                raise UserError(f"{graph.path}: gives {list(theirs.shape)} where {config.arch} gives {list(ours.shape)}; "
                                "export it with the embedding alone")
            made.append(ours[0])
            changes.append(float(np.abs(theirs.reshape(ours.shape) - ours).max() / np.abs(ours).max()))
    except UserError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{graph.path}: ONNX Runtime cannot run it ({said[:150]}); export it again") from None
    if np.ptp(made, axis=0).max() < LEAST_SPREAD * np.abs(made).max():
        raise UserError(f"{graph.path}: its embeddings hardly change with the features, so running it proves nothing; take "
                        "the file of a trained network")
    return max(changes, key=lambda change: (np.isnan(change), change))


def random_features(random: np.random.Generator, batch: int, frames: int, mels: int) -> np.ndarray:
    """Makes features (batch, frames, mels) float32 that differ as log-mels of recordings do: each has a spectrum of its
    own, which drifts, and noise."""
    spectrum = 2 * random.standard_normal((batch, 1, mels))
    drift = np.cumsum(0.2 * random.standard_normal((batch, frames, mels)), axis=1)
    return (spectrum + drift + random.standard_normal((batch, frames, mels))).astype(np.float32)
