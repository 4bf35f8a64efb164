"""Speed of training on this machine: arithmetic, samples per second, and what quantization adds to a step.

    python tests/bench/train.py [--threads 1] [--repeats 3] [--batches 32 64] [--quick]

Steps on random features of two seconds, forward, backward and update, each alternative in turn in this
process; the shortest time of the repeats counts: processor time with one thread, so that other work on the
machine hardly matters, else wall time. `bf16 cl` is bfloat16 with channels-last weights. The QAT
step is that of the float network with 4-bit quantizers on all its weights.
"""

import argparse
import copy
import os
import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from svq.hardware import describe  # noqa: E402
from svq.nets import build  # noqa: E402
from svq.quant import QuantConfig, quantize_  # noqa: E402
from svq.train.objective import AAMSoftmax, Objective  # noqa: E402
from svq.train.arithmetic import autocast, low_precision, memory_format  # noqa: E402
from svq.train.config import OptimizerConfig
from svq.train.optimizer import make_optimizer, set_learning_rate  # noqa: E402

CPU = torch.device("cpu")
CLASSES = 500


def stepper(net, bf16, channels_last, batch, clock):
    """A function that takes one training step and returns its seconds."""
    # float32 with channels-last weights is never used: torch 2.13 is slow there, and not always sound.
    objective = Objective(net, AAMSoftmax(256, CLASSES)).train()
    objective = objective.to(memory_format=memory_format(objective, channels_last, CPU))  # not where it is unsafe, as svq trains
    optimizer = make_optimizer(OptimizerConfig(), objective)
    set_learning_rate(optimizer, 1e-3)
    feats, labels = torch.randn(batch, 200, 80), torch.arange(batch) % CLASSES

    def step():
        start = clock()
        with autocast(torch.bfloat16 if bf16 else None, CPU):
            loss, _ = objective(feats, labels, 0.2)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return clock() - start

    return step


def shortest(steps, repeats):
    """Shortest time of each step function, taken in turns, after one step to warm up."""
    for step in steps:
        step()
    times = [[step() for step in steps] for _ in range(repeats)]
    return [min(column) for column in zip(*times)]


def network(arch, width):
    torch.manual_seed(0)
    return build(arch, 80, 256, width=width)


def arithmetic(archs, widths, batch, repeats, clock):
    print(f"\nfloat step, batch {batch}, samples/s\n{'network':<12} {'fp32':>8} {'bf16':>8} {'bf16 cl':>8}")
    for arch in archs:
        for width in widths:
            kinds = [(False, False), (True, False), (True, True)]
            steps = [stepper(network(arch, width), *kind, batch, clock) for kind in kinds]
            rates = [batch / seconds for seconds in shortest(steps, repeats)]
            print(f"{arch} w{width:<2} " + " ".join(f"{rate:8.1f}" for rate in rates), flush=True)


def quantization(widths, batches, repeats, clock):
    bf16 = low_precision("auto", CPU)
    print(f"\nResNet34, {'bf16 channels-last' if bf16 else 'fp32'}, 4-bit QAT (aim: ratio at most 1.15)")
    print(f"{'width':>5} {'batch':>6} {'float samples/s':>16} {'QAT samples/s':>14} {'QAT / float step':>17}")
    for width in widths:
        for batch in batches:
            plain = network("ResNet34", width)
            quantized = quantize_(copy.deepcopy(plain), QuantConfig(bits=4))
            seconds = shortest([stepper(net, bf16, bf16, batch, clock) for net in (plain, quantized)], repeats)
            print(f"{width:>5} {batch:>6} {batch / seconds[0]:>16.1f} {batch / seconds[1]:>14.1f} "
                  f"{seconds[1] / seconds[0]:>17.3f}", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--batches", type=int, nargs="+", default=[32, 64])
    arguments.add_argument("--quick", action="store_true", help="width 16 at batch 8 only: does it run")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"CPU {describe()}, threads used {options.threads}, {clock.__name__}, load {os.getloadavg()[0]:.1f}, "
          f"Python {platform.python_version()}, torch {torch.__version__}")
    if options.quick:
        quantization([16], [8], 1, clock)
        return
    arithmetic(["ResNet18", "ResNet34"], [4, 8, 16, 32], 16, options.repeats, clock)
    quantization([16, 32], options.batches, options.repeats, clock)


if __name__ == "__main__":
    main()
