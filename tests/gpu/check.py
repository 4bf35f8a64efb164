"""Checks svq on a GPU and measures it there; see tests/gpu/run.sh."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
import time
import traceback

import torch


def main() -> int:
    options = parse_options()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here: nothing is checked (--device cpu --toy runs all of it at toy size)")
        return 0
    from tests.gpu import peer
    from tests.gpu.correctness import CHECKS
    from tests.gpu.synthetic import FULL, TOY

    began = time.monotonic()
    device, size = torch.device("cuda:0" if options.device == "cuda" else options.device), TOY if options.toy else FULL
    if device.type == "cpu":
        torch.set_num_threads(1)
    if options.toy:  # without a compiler: a step is compiled in seconds only where it is large
        torch.nn.Module.compile = lambda net: setattr(net, "_compiled_call_impl", torch.compile(net._call_impl, backend="eager"))

    def left() -> float:
        """Seconds, all of them for toys."""
        return 1e9 if options.toy else 60 * options.minutes - (time.monotonic() - began)

    with tempfile.TemporaryDirectory() as folder, Output(options.out) as say:
        say(f"# svq on {described(device)}\n")
        failed = checked(CHECKS, size, device, say)
        asked = options.wespeaker or ("none" if options.toy else "")
        checkout = None if asked == "none" else asked or peer.fetched(folder)
        if checkout is None:
            say("\nWeSpeaker was left out: " + ("as asked." if asked else "no checkout was given, and git could not clone one."))
        measured(size, device, options, checkout, left, say)
        say(f"\n{'All checks passed' if not failed else 'FAILED: ' + ', '.join(failed)}; "
            f"{time.monotonic() - began:.0f} s.")
    return 1 if failed else 0


def parse_options():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10.0, help="what it may take, about")
    arguments.add_argument("--device", default="cuda", help="cuda or cpu")
    arguments.add_argument("--toy", action="store_true", help="tiny networks; the figures mean nothing")
    arguments.add_argument("--wespeaker", help="a checkout of WeSpeaker, or none; default: cloned by git")
    arguments.add_argument("--out", help="file for the Markdown; it is printed in any case")
    return arguments.parse_args()


def described(device: torch.device) -> str:
    from svq.hardware import describe

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else describe()
    cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if device.type == "cuda" else ""
    return f"{name}, torch {torch.__version__}{cuda}, Python {sys.version.split()[0]}"


class Output:
    """Prints lines, and writes them to a file where one is asked for, as they come."""

    def __init__(self, path: str | None):
        self.file = open(path, "w", encoding="utf-8") if path else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file:
            self.file.close()

    def __call__(self, text: str) -> None:
        for file in (sys.stdout, self.file):
            if file:
                print(text, file=file, flush=True)


def checked(checks, size, device, say) -> list[str]:
    """Runs the checks, a row each; the names of those that failed."""
    say("## Correctness\n\n| check | what was found | seconds |\n|---|---|---:|")
    failed = []
    for check in checks:
        start = time.monotonic()
        try:
            with quiet():
                found = check(size, device)
        except Exception as error:  # the others are worth knowing all the same
            failed.append(check.__name__)
            found = f"**FAILED**: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            traceback.print_exc()
        say(f"| {check.__doc__.strip().splitlines()[0]} | {found} | {time.monotonic() - start:.1f} |")
    return failed


def measured(size, device, options, checkout, left, say) -> None:
    from tests.gpu.throughput import Clock, extraction, quantized, training

    clock = Clock(device, 0.0 if options.toy else 0.8 * options.minutes)
    sections = [
        (f"Training, batches of {size.big_batch}, {size.big_frames} frames, {size.speakers} speakers",
         ["network", "what", "samples/s", "times WeSpeaker"],
         functools.partial(training, checkout=checkout, left=left)),
        ("Quantization-aware training, kmqat, 4 bits, bf16", ["network", "float step (ms)", "quantized step (ms)", "ratio"], quantized),
        ("Extraction, fp32, hours of speech a second by frames in a batch", ["network", "hours/s"], extraction)]
    for title, columns, measure in sections:
        say(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for name, arch, net in size.measured:
            if left() < 20:
                say(f"| {name} | left out: no time |")
                continue
            try:
                with quiet():
                    rows = measure(size, device, clock, name, arch, net)
            except Exception as error:
                traceback.print_exc()
                rows = [name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"]
            for row in rows if isinstance(rows[0], list) else [rows]:
                say(f"| {' | '.join(row)} |")


@contextlib.contextmanager
def quiet():
    """Without the lines that trainings print."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


if __name__ == "__main__":
    sys.exit(main())
