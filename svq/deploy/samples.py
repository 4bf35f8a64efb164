"""Inputs for a calibration: a seeded draw of utterances."""

from __future__ import annotations

import os

import numpy as np

from svq.data.extraction import Utterances
from svq.errors import UserError


def calibration_inputs(data_dir, metadata, count: int, seconds: float, seed: int,
                       input: str = "auto") -> list[np.ndarray]:
    """The first `seconds` of up to `count` utterances of a data directory, each (1, T, F), or (1, samples) where the
    exported network takes waveforms.

    metadata: the `svq.deploy.metadata.Metadata` of the float graph; a fixed duration in it wins over `seconds`, and
    utterances that are shorter are passed over. input: as in `svq.data.extraction.Utterances`.
    UserError where an utterance cannot be read, or none is long enough.
    """
    waveforms, rate = metadata.input == "waveform", metadata.config.front_end.rate
    fixed = metadata.frames
    if fixed is not None:
        seconds = fixed / rate if waveforms else 0.0
    utterances = Utterances(data_dir, metadata.config.front_end, input, max_seconds=seconds, waveforms=waveforms)
    utterances.sample(count, seed)
    found = []
    for key, value in utterances:
        if isinstance(value, UserError):
            raise UserError(f"{data_dir}: {key}: {value}")
        if fixed is None or len(value) >= fixed:
            found.append(np.ascontiguousarray(value[:fixed].numpy()[None]))
    if not found:
        raise UserError(f"{os.fspath(data_dir)}: none of {len(utterances)} utterances is long enough for a calibration")
    return found
