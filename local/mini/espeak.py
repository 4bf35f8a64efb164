"""Calls the espeak-ng library of the espeakng-loader wheel through ctypes."""

import ctypes
import os
import tempfile

import numpy as np

from svq.errors import UserError

RATE = 22050  # of the library's own voices
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, no sound device
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT
_RATE_PARAMETER = 1  # espeakRATE
_POSITION_CHARACTER = 1
_UTF8 = 1
_DATA_FILES = ("phondata", "phonindex", "phontab", "intonations", "en_dict")
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Synthesizer:
    """Speaks texts with voices given as the text of an espeak-ng voice file.

    The library keeps hidden state from one utterance to the next, so the samples depend on
    everything that the process said before. For the same bytes in any order, make a fresh
    process for each speaker, with one Synthesizer in it.

    Raises UserError when the wheel is missing or the library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise UserError(
                "the mini corpus needs the espeakng-loader wheel: pip install espeakng-loader"
            ) from error
        self._folder = tempfile.TemporaryDirectory(prefix="espeak")
        self._link_data(espeakng_loader.get_data_path())
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(
            _SYNCHRONOUS, 200, self._folder.name.encode(), _DONT_EXIT
        )
        if rate != RATE:
            raise UserError(
                f"espeak-ng did not start with its data in {self._folder.name} "
                f"(rate {rate}); a TMPDIR with a shorter path may help"
            )
        self._chunks: list[bytes] = []
        # Keep it as an attribute: the library holds only a bare pointer to it.
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _link_data(self, source: str) -> None:
        """Makes a data folder of links, with a voices/ that can be written to."""
        for name in _DATA_FILES:
            os.symlink(os.path.join(source, name), os.path.join(self._folder.name, name))
        os.mkdir(os.path.join(self._folder.name, "voices"))

    def _receive(self, samples, count, events) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, voice: str, text: str, words_per_minute: int, seed: int) -> np.ndarray:
        """Speaks a text: samples float64 (T,) in [-1, 1] at 22050 Hz; UserError if nothing comes.

        seed: seed of breath and roughness, which the library would seed with the clock.
        """
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        with open(os.path.join(self._folder.name, "voices", "own"), "w") as file:
            file.write(voice)
        self._check(self._library.espeak_SetVoiceByName(b"own"), "voice")
        self._check(
            self._library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0), "rate"
        )
        self._chunks.clear()
        data = text.encode() + b"\0"
        self._check(
            self._library.espeak_Synth(
                data, ctypes.c_size_t(len(data)), 0, _POSITION_CHARACTER, 0, _UTF8, None, None
            ),
            "text",
        )
        samples = np.frombuffer(b"".join(self._chunks), np.int16) / 32768.0
        if not np.any(samples):
            raise UserError(f"espeak-ng spoke nothing for the text '{text}'")
        return samples

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status != 0:
            raise UserError(f"espeak-ng refused a {what} (status {status})")
