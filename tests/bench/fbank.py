"""Speed of the front end beside kaldi-native-fbank: seconds of audio per second, one thread.

    python tests/bench/fbank.py [--repeats 15]

Both run in this process, in turns. "native" has its samples as a Python list and
its frames taken out one by one, as its Python interface wants; "native, compute"
is its accept_waveform alone.
"""

import argparse
import platform
import time
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import torch

import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from svq.data.fbank import Fbank  # noqa: E402

RATE = 16000


def native(samples, take_frames=True):
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(RATE, samples)
    computer.input_finished()
    if take_frames:
        return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    return None


def best(functions, repeats):
    """Shortest processor time of each function, measured in turns."""
    times = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.process_time()
            function()
            times[i] = min(times[i], time.process_time() - start)
    return times


def cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=15)
    repeats = arguments.parse_args().repeats
    torch.set_num_threads(1)
    print(f"CPU: {cpu()}; 1 thread; torch {torch.__version__}, kaldi-native-fbank {knf.__version__}, "
          f"Python {platform.python_version()}")
    print(f"{'input':>16} {'svq':>8} {'native':>8} {'native, compute':>16} {'max difference':>15}   (x real time)")
    fbank, rng = Fbank(), np.random.default_rng(0)
    for batch, seconds in ((1, 3), (1, 5), (1, 10), (64, 2)):
        waves = torch.from_numpy((0.1 * rng.standard_normal((batch, seconds * RATE))).astype(np.float32))
        lists = [(wave * 32768).tolist() for wave in waves]
        times = best([lambda: fbank(waves), lambda: [native(x) for x in lists],
                      lambda: [native(x, False) for x in lists]], repeats)
        speed = [batch * seconds / t for t in times]
        difference = np.abs(fbank(waves)[0].numpy() - native(lists[0])).max()
        print(f"{f'{batch} x {seconds} s':>16} {speed[0]:8.0f} {speed[1]:8.0f} {speed[2]:16.0f} {difference:15.1e}")


if __name__ == "__main__":
    main()
