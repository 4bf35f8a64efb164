"""The tables of a front end in an ONNX graph, computed from a few numbers; `svq.deploy.graph` stores them whole.

Window, DFT and the other linear steps on a frame are computed in float64, as there. Mel filters are stored by their
entries that are not zero, since Kaldi's depend on how float32 rounds its mel scale.
"""

from __future__ import annotations

import numpy as np

from svq.deploy.constants import Constants

# (a, less, power) of the window (a - (1 - a) cos(2 pi n / (length - less))) ** power.
COSINE_WINDOWS = ((0.5, 1, 0.85), (0.54, 1, 1.0), (0.54, 0, 1.0), (0.5, 0, 1.0))


def kaldi_table(constants: Constants, bank) -> str:
    """Adds the nodes that compute `svq.deploy.graph.kaldi_matrix` of a `svq.data.fbank.Fbank`.

    Gives the name of a tensor (2 bins, samples of a frame), float64.
    """
    length = bank.length
    frame = constants.node("Mul", _fourier(constants, bank.fft_size // 2, bank.fft_size, 0, length),
                           _window(constants, bank))
    # Times the matrix of pre-emphasis: each column less a share of its right neighbour, the first also of itself.
    first, second, last = (constants.tensor(np.array([number], dtype=np.int64)) for number in (0, 1, length))
    axis = constants.tensor(np.array([1], dtype=np.int64))
    right = _padded(constants, constants.node("Slice", frame, second, last, axis), 0, 1)
    itself = _padded(constants, constants.node("Slice", frame, first, second, axis), 0, length - 1)
    part = constants.node("Mul", constants.node("Add", right, itself), constants.tensor(np.float64(bank.preemphasis)))
    frame = constants.node("Sub", frame, part)
    return constants.node("Sub", frame, constants.node("ReduceMean", frame, axes=[1]))


def centred_table(constants: Constants, bank) -> str:
    """Adds the nodes that compute `svq.deploy.graph.centred_matrix` of a `svq.data.fbank.CentredFbank`.

    Gives the name of a tensor (2 bins, points of the DFT), float64.
    """
    size, length = bank.fft_size, bank.length
    start = (size - length) // 2
    waves = _fourier(constants, len(bank.mel), size, start, start + length)
    found = constants.node("Mul", waves, _window(constants, bank))
    return _padded(constants, found, start, size - length - start) if size > length else found


def _padded(constants: Constants, name: str, before: int, after: int) -> str:
    """Adds so many columns of zeros before and after a tensor (rows, columns)."""
    return constants.node("Pad", name, constants.tensor(np.array([0, before, 0, after], dtype=np.int64)))


def _fourier(constants: Constants, bins: int, size: int, start: int, stop: int) -> str:
    """Adds the nodes that compute columns `start` to `stop` of `svq.deploy.graph.fourier`, (2 bins, columns) float64.

    Negative sines are cosines a quarter of a turn further. Angles stay whole numbers, `size` to a turn, until the end.
    """
    turns = constants.node("Mul", constants.shaped(constants.count(bins, np.int64), (1, bins, 1)),
                           constants.shaped(constants.count(stop, np.int64, start), (1, 1, stop - start)))
    quarter = constants.tensor(np.array([0, size // 4], dtype=np.int64).reshape(2, 1, 1))
    turns = constants.node("Mod", constants.node("Add", turns, quarter), constants.tensor(np.int64(size)))
    angles = constants.node("Mul", constants.cast(turns, np.float64), constants.tensor(np.float64(2 * np.pi / size)))
    return constants.shaped(constants.node("Cos", angles), (2 * bins, stop - start))


def _window(constants: Constants, bank) -> str:
    """Adds the bank's window, (length,) float64: computed where it is one of COSINE_WINDOWS, else stored."""
    window, length = bank.window.numpy(), bank.length
    for a, less, power in COSINE_WINDOWS:
        own = (a - (1 - a) * np.cos(2 * np.pi * np.arange(length) / (length - less))) ** power
        scale = np.float64(window[length // 2]) / own[length // 2]
        if np.allclose(own * scale, window, 4 * np.finfo(window.dtype).eps, 0):
            break
    else:
        return constants.cast(constants.tensor(window), np.float64)
    angles = constants.node("Mul", constants.count(length, np.float64),
                            constants.tensor(np.float64(2 * np.pi / (length - less))))
    cosines = constants.node("Mul", constants.node("Cos", angles), constants.tensor(np.float64(1 - a)))
    found = constants.node("Sub", constants.tensor(np.float64(a)), cosines)
    if power != 1:
        found = constants.node("Pow", found, constants.tensor(np.float64(power)))
    found = constants.node("Mul", found, constants.tensor(scale))
    return found if window.dtype == np.float64 else constants.cast(constants.cast(found, window.dtype), np.float64)


def sparse(constants: Constants, array: np.ndarray) -> str:
    """Adds the nodes that make a tensor of mostly zeros from its other entries; gives the tensor's name."""
    flat = array.ravel()
    places = np.flatnonzero(flat)
    places = places.astype(np.uint16 if flat.size <= 1 << 16 else np.int32)
    zeros = constants.node("Expand", constants.tensor(flat.dtype.type(0)), constants.tensor(np.array([flat.size], np.int64)))
    index = constants.cast(constants.tensor(places), np.int64)
    filled = constants.node("ScatterElements", zeros, index, constants.tensor(flat[places]))
    return constants.shaped(filled, array.shape)
