"""What a compression will do, decided before anything is made: how it finetunes, and what gives layers their bits."""

from __future__ import annotations

import dataclasses
import os
import sys

from svq.compression.inputs import Speech
from svq.compression.settings import Settings, fitting
from svq.errors import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
    """finetune: none, embedding or labels. objective: of the sensitivities. head: where the classifier is from: own,
    fitted or none. per_channel: whether each channel has a codebook."""

    finetune: str
    objective: str
    head: str
    per_channel: bool


def finetuning(asked: str, speech: Speech, data, batch_size: int) -> str:
    """none, embedding or labels; `asked` may be auto, true and false, too. UserError where `speech` is too little."""
    if asked == "auto":
        if speech.utterances >= batch_size:
            return "embedding"
        print(f"{data}: {speech.utterances} recordings do not fill a batch of {batch_size}: not finetuned",
              file=sys.stderr)
        return "none"
    kind = {"true": "labels" if speech.labelled else "embedding", "false": "none"}.get(asked, asked)
    if kind == "labels" and not speech.labelled:
        raise UserError(f"{data}/utt2spk: {speech.utterances} utterances of {len(speech.speakers)} speakers are no "
                        "labels to finetune with; take --finetune embedding")
    if kind != "none" and speech.utterances < 2:
        raise UserError(f"{data}: a single recording is too little to finetune on; take --finetune none")
    return kind


def make_plan(settings: Settings, speech: Speech, objective: str, model, origin: str, options) -> Plan:
    """UserError for a size that cannot be met, and for values out of range.

    objective: auto, labels or embedding. model, origin, options: as of `starting_point`.
    """
    settings.check()
    per_channel = fitting(*starting_point(model, origin, options), settings).per_channel
    if objective == "auto":
        objective = "labels" if settings.finetune == "labels" else "embedding"
    if objective == "labels" and len(speech.speakers) < 2:
        raise UserError("--objective labels needs two speakers or more in --data; take embedding")
    head = "none"
    if "labels" in (objective, settings.finetune):
        head = "own" if has_head_of(model, origin, speech) else "fitted"
    return Plan(settings.finetune, objective, head, per_channel)


def starting_point(model, origin: str, options=None):
    """The float network that is to be compressed, and its config.

    origin: the toolkit of the checkpoint `model`, read with `options` (svq.importing.Options), or svq.
    """
    if origin != "svq":
        from svq.importing import import_checkpoint

        found = import_checkpoint(model, origin, None, options)
        return found.net, found.config
    from svq.models import load_model

    if not os.path.isdir(model):
        raise UserError(f"{model}: --from svq takes the folder of a float model, with config.yaml and "
                        "model.safetensors")
    net, config = load_model(model)
    if config.quant is not None:
        raise UserError(f"{model}: is quantized already; compress the float model that it was made from")
    return net, config


def has_head_of(model, origin: str, speech: Speech) -> bool:
    """Whether `model` has a classifier for just the speakers of `speech`."""
    from svq.train.folders import read_speakers

    if origin != "svq" or not os.path.exists(os.path.join(model, "head.safetensors")):
        return False
    return read_speakers(model) == speech.speakers
