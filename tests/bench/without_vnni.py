"""Runs a command on a processor like this one, but without AVX-512 and VNNI: as ONNX Runtime, OpenVINO and torch see it.

    python tests/bench/without_vnni.py python tests/bench/latency.py --networks ResNet34 --threads 1

Copies of ONNX Runtime and OpenVINO have an invalid instruction in place of every CPUID; a preloaded library answers it
with the processor's own words, less those instructions. So their AVX2 kernels run at full speed. torch has settings for
it. Needs Linux on x86-64, gcc and objdump. The children's environment says BENCH_WITHOUT, for the table's head.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HIDDEN = "avx512 vnni amx"
PACKAGES = {"onnxruntime": ("capi/onnxruntime_pybind11_state*.so",),
            "openvino": ("libs/libopenvino.so.*", "libs/libopenvino_intel_cpu_plugin.so")}
SETTINGS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}  # torch's
CPUID, INVALID = b"\x0f\xa2", b"\x0f\x0b"
HANDLER = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
#define BIT(n) (1u << (n))
static void answer(int number, siginfo_t *info, void *context) {
  greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *code = (const unsigned char *)reg[REG_RIP];
  unsigned leaf = reg[REG_RAX], sub = reg[REG_RCX], a, b, c, d;
  if (code[0] != 0x0f || code[1] != 0x0b) { signal(SIGILL, SIG_DFL); return; }
  __cpuid_count(leaf, sub, a, b, c, d);
  if (leaf == 7 && sub == 0) {
    b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 */
    c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                 /* its VNNI and others */
    d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));              /* AMX */
  }
  if (leaf == 7 && sub == 1) { a &= ~(BIT(4) | BIT(5) | BIT(21)); d = 0; }                 /* AVX-VNNI */
  reg[REG_RAX] = a; reg[REG_RBX] = b; reg[REG_RCX] = c; reg[REG_RDX] = d; reg[REG_RIP] += 2;
}
__attribute__((constructor)) static void install(void) {
  struct sigaction action = {0};
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, 0);
}
"""


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def patch(path):
    """Replaces the CPUID instructions of a shared library; how many there were."""
    row = r"^\s+\d+ \.\S+\s+(\w+)\s+(\w+)\s+\w+\s+(\w+)"  # a section: its size, address and place in the file
    sections = [[int(text, 16) for text in found] for found in re.findall(row, output("objdump", "-h", path), re.M)]
    code, count = bytearray(path.read_bytes()), 0
    disassembler = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", path], stdout=subprocess.PIPE, text=True)
    for line in disassembler.stdout:
        if not line.rstrip().endswith("\tcpuid"):
            continue
        address = int(line.split(":")[0], 16)
        place = next(place + address - start for size, start, place in sections if start <= address < start + size)
        assert code[place:place + 2] == CPUID, f"{path}: {line}"
        code[place:place + 2] = INVALID
        count += 1
    if disassembler.wait():
        sys.exit(f"{path}: objdump failed")
    if count:
        path.chmod(0o755)
        path.write_bytes(code)
    return count


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="without-vnni-") as folder:
        for package, patterns in PACKAGES.items():
            source = Path(importlib.util.find_spec(package).origin).parent
            shutil.copytree(source, Path(folder) / package, symlinks=True)
            libraries = [path for pattern in patterns for path in sorted((Path(folder) / package).glob(pattern))]
            print(f"{package}: {sum(map(patch, libraries))} CPUID instructions of {len(libraries)} libraries",
                  file=sys.stderr)
        source, library = Path(folder) / "handler.c", Path(folder) / "handler.so"
        source.write_text(HANDLER)
        output("gcc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library))
        found = {**os.environ, **SETTINGS, "BENCH_WITHOUT": HIDDEN, "LD_PRELOAD": str(library),
                 "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))}
        sys.exit(subprocess.run(sys.argv[1:], env=found).returncode)


if __name__ == "__main__":
    main()
