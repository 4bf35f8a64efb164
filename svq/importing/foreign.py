"""Networks that people try to import and that cannot be imported: what they are, by names of tensors, and why not."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple


class Foreign(NamedTuple):
    """A kind of checkpoint. marks: patterns, each of which the whole name of some tensor matches. why: ends a sentence
    that begins with what it is."""

    what: str
    marks: tuple[str, ...]
    why: str


FOREIGN = (
    Foreign("TaoRuijie's ECAPA-TDNN", (r"fc6\.weight", r"layer4\.weight", r"attention\.0\.weight"),
            "its blocks take the sum of all blocks before them, and its mel filters go from 20 to 7600 Hz: neither is known "
            "here; an ECAPA-TDNN of SpeechBrain, WeSpeaker or 3D-Speaker is"),
    Foreign("NeMo's TitaNet or SpeakerNet", (r"encoder\.encoder\.0\.mconv\.\d\.conv\.weight",),
            "neither its separable convolutions nor its front end are known here"),
    Foreign("pyannote's XVectorSincNet", (r"sincnet\.conv1d\.0\.filterbank\.\w+",),
            "it takes waveforms through filters of its own (SincNet), not log-mels; pyannote's WeSpeaker ResNets are known: "
            "--from pyannote"),
    Foreign("a network of the family of wav2vec 2.0, HuBERT and WavLM",
            (r"(?:.*\.)?feature_extractor\.conv_layers\.0\..+",), "it takes waveforms, not log-mels"),
    Foreign("a Whisper recogniser", (r"(?:.*\.)?encoder\.conv1\.weight", r"(?:.*\.)?decoder\..+"),
            "it writes text; a speaker network is needed"),
    Foreign("a speech recogniser", (r"(?:encoder|joiner|joint)\..+", r"(?:ctc|ctc_output|decoder|joiner|joint)\..+"),
            "it writes text; a speaker network is needed"),
    Foreign("a voice of a synthesizer (VITS)", (r"enc_p\..+", r"dec\..+"), "it makes speech; a speaker network is needed"),
    Foreign("a training's optimizer", (r"exp_avg(?:_sq)?",), "name the file that has the weights"),
)


def foreign(names: Collection[str]) -> str | None:
    """Says what checkpoint with tensors of these names is known but cannot be imported, and why; None for any other."""
    for each in FOREIGN:
        if all(any(re.fullmatch(mark, name) for name in names) for mark in each.marks):
            return f"{each.what}: {each.why}"
    return None
