"""Speed of embedding extraction: ResNet34 of width 32 on waveforms, at 1 and 2 threads.

    python tests/bench/extract.py [--width 32] [--utterances 24] [--threads 1 2]

RTF: seconds of work per second of speech, front end and reading of the WAV files
included. Lengths are drawn from whole tenths of a second between 2 and 6 s, so
that some share a batch. "one by one" is the same network called per utterance,
the way of scripts that do not batch.
"""

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from svq import nets  # noqa: E402
from svq.data.datadir import create  # noqa: E402
from svq.data.extraction import Utterances, embed  # noqa: E402
from svq.data.fbank import Fbank, mean_normalize  # noqa: E402
from svq.data.frontend import FrontEndConfig  # noqa: E402


def recordings(folder, count):
    rng = np.random.default_rng(0)
    wav, seconds = {}, {}
    for i in range(count):
        key = f"utt{i:04d}"
        seconds[key] = rng.integers(20, 61) / 10
        wav[key] = Path(folder) / f"{key}.wav"
        soundfile.write(wav[key], 0.1 * rng.standard_normal(int(seconds[key] * 16000)), 16000, subtype="PCM_16")
    return create(Path(folder) / "data", wav=wav, utt2spk={key: key for key in wav}, utt2dur=seconds), sum(seconds.values())


def one_by_one(net, data):
    fbank = Fbank()
    for line in open(data / "wav.scp"):
        wav, _ = soundfile.read(line.split(" ", 1)[1].strip(), dtype="float32")
        with torch.no_grad():
            net(mean_normalize(fbank(torch.from_numpy(wav)[None])))


def cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--width", type=int, default=32)
    arguments.add_argument("--utterances", type=int, default=24)
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = arguments.parse_args()
    torch.manual_seed(0)
    plain = nets.build("ResNet34", 80, 256, width=options.width).eval()
    batched = nets.build("ResNet34", 80, 256, width=options.width).eval()
    batched.load_state_dict(plain.state_dict())
    print(f"CPU: {cpu()}; torch {torch.__version__}, Python {platform.python_version()}; "
          f"ResNet34 width {options.width}, {nets.num_parameters(plain) / 1e6:.2f} M parameters, float32")
    print(f"{'threads':>8} {'RTF':>8} {'x real time':>12} {'RTF, one by one':>16}")
    with tempfile.TemporaryDirectory() as folder:
        data, seconds = recordings(folder, options.utterances)
        for threads in options.threads:
            torch.set_num_threads(threads)
            start = time.perf_counter()
            count = sum(1 for _ in embed(batched, Utterances(data, FrontEndConfig())))
            ours = (time.perf_counter() - start) / seconds
            assert count == options.utterances
            start = time.perf_counter()
            one_by_one(plain, data)
            simple = (time.perf_counter() - start) / seconds
            print(f"{threads:8d} {ours:8.4f} {1 / ours:12.1f} {simple:16.4f}")


if __name__ == "__main__":
    main()
