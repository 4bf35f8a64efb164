"""Cost of the quantizers: seconds to quantize a network, and what each method adds to a training step.

    python tests/bench/quantizers.py [--methods kmqat4 twn2 ...] [--batch 32] [--width 32] [--repeats 3] [--quick]

`quantize_` is the time to put quantizers on all weights of ResNet101. `own` is the processor time per
step of ResNet34 in the quantizers themselves, forward and backward over all weights, alone in a loop.
`QAT / float` is the ratio of whole training steps, taken in turns on random features of two seconds. The
shortest of the repeats counts, in processor time of one thread.
"""

import argparse
import copy
import os
import platform
import time

import torch

# The bench beside this one puts the repository on the path.
from train import CPU, network, shortest, stepper
from svq.hardware import describe
from svq.nets import num_parameters
from svq.quant import QuantConfig, quantize_
from svq.quant.api import float_weight, quantizers
from svq.train.arithmetic import low_precision

CASES = {f"{method}{bits}": QuantConfig(method, bits) for method, bits in [
    ("kmqat", 4), ("kmqat", 2), ("kmqat", 1), ("uniform", 4), ("pot", 4), ("pot", 6), ("apot", 4), ("apot", 3),
    ("twn", 2), ("admm", 6), ("static", 1), ("adaptive", 1)]}
CASES["kmqat4-asymmetric"] = QuantConfig(rescaling="asymmetric")
CASES["kmqat4-channels"] = QuantConfig(per_channel=True)
CASES["uniform4-channels"] = QuantConfig("uniform", per_channel=True)
clock = time.process_time


def seconds_to_quantize(net, config, repeats):
    times = []
    for _ in range(repeats):
        fresh = copy.deepcopy(net)
        start = clock()
        quantize_(fresh, config)
        times.append(clock() - start)
    return min(times)


def quantizer_step(net):
    """A function that runs all quantizers of `net` forward and backward and returns the seconds."""
    pairs = [(quantizer, float_weight(module)) for _, module, quantizer in quantizers(net)]
    grads = [torch.randn_like(weight) for _, weight in pairs]

    def step():
        start = clock()
        for (quantizer, weight), grad in zip(pairs, grads):
            quantizer(weight).backward(grad)
            weight.grad = None
        return clock() - start

    return step


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES), metavar="METHOD")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--width", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--no-steps", action="store_true", help="leave out the whole training steps")
    arguments.add_argument("--quick", action="store_true", help="small networks, one repeat: does it run")
    options = arguments.parse_args()
    if options.quick:
        options.batch, options.width, options.repeats = 2, 4, 1
    torch.set_num_threads(1)
    bf16 = low_precision("auto", CPU)
    print(f"CPU {describe()}, threads used 1, {clock.__name__}, load {os.getloadavg()[0]:.1f}, "
          f"Python {platform.python_version()}, torch {torch.__version__}")
    large, small = (network(arch, options.width) for arch in ("ResNet101", "ResNet34"))
    print(f"ResNet101 of {num_parameters(large) / 1e6:.1f}M and ResNet34 of {num_parameters(small) / 1e6:.1f}M parameters, "
          f"batch {options.batch}, {'bf16 channels-last' if bf16 else 'fp32'}")
    print(f"{'method':<18} {'quantize_ s':>12} {'own ms':>8} {'QAT / float':>12}")
    for name in options.methods:
        net = quantize_(copy.deepcopy(small), CASES[name])
        taken = seconds_to_quantize(large, CASES[name], min(options.repeats, 2))
        line = f"{name:<18} {taken:>12.2f}"
        channels_last = net.to(memory_format=torch.channels_last) if bf16 else net
        (own,) = shortest([quantizer_step(channels_last)], options.repeats)
        line += f" {own * 1000:>8.1f}"
        if not options.no_steps:
            steps = [stepper(n, bf16, bf16, options.batch, clock) for n in (copy.deepcopy(small), net)]
            plain, quantized = shortest(steps, options.repeats)
            line += f" {quantized / plain:>12.3f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
