"""What the tables of Liu et al. cost in egs/voxceleb: GPU-hours, bytes read, disk and days, from measured and stated pieces.

    python tests/bench/cost.py                          the tables of docs/scale.md
    python tests/bench/cost.py --into docs/scale.md     puts them there
    python tests/bench/cost.py --peak 989 --share 0.1   on another card: TFLOP/s at its peak, and the share that is reached

Systems, epochs and networks are those of local/table.sh and egs/voxceleb/conf. Nothing is trained or measured here.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import heapq
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from svq.config import load_config  # noqa: E402
from svq.draw.tables import markdown_table  # noqa: E402
from svq.evaluation.operations import count_flops  # noqa: E402
from svq.nets import num_parameters  # noqa: E402
from svq.recipe.settings import Conf  # noqa: E402
from svq.train.config import TrainConfig  # noqa: E402

RECIPE = ROOT / "egs" / "voxceleb"
BEGIN, END = "<!-- cost:begin -->", "<!-- cost:end -->"
TABLES = {"I": "table_1", "II": "table_2", "III": "table_3", "IV": "table_4", "V": "table_5"}
FRAMES, MELS = 100, 80           # frames in a second, values in a frame
STEP = 3                         # a training step over a forward pass: the backward pass computes two products for each
# QAT step over float step, a codebook for each channel (tests/bench/README.md). Rows of one method have their bits' mean.
QAT = {"kmqat": 1.08, "uniform": 1.07, "pot": 1.06, "apot": 1.07, "twn": 1.05, "static": 1.08, "adaptive": 1.03, "admm": 1.00}


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The pieces that all costs are made of; `rows` says where each is from."""

    utterances: int = 1_092_009
    hours: float = 2_364
    speakers: int = 5_994
    test_utterances: int = 153_516 + 30_709
    test_hours: float = 352 + 66
    speeds: int = 3
    second_bytes: float = 17_700       # FLAC
    value_bytes: int = 2               # of features
    loader: float = 400                # samples a second and core, from shards of FLAC
    loaders: int = 8                   # of each GPU (num_workers in the recipe's settings)
    decode: float = 39                 # m4a a second and core
    fbank: float = 2_638               # seconds of speech a second and core
    peak: float = 312
    share: float = 0.097
    float_peak: float = 19.5
    float_share: float = 0.287
    spread: float = 0.84               # of N GPUs on one network over N times one, N up to 8

    @property
    def items(self) -> int:
        """Training samples in an epoch."""
        return self.speeds * self.utterances

    def rows(self) -> list[list[str]]:
        """Gives the table of pieces: what, value, source, and whether it was measured with this code."""
        return [
            ["VoxCeleb2 dev", f"{self.utterances:,} utterances, {self.hours:,.0f} h, {self.speakers:,} speakers", "its site; hours: [storage](storage.md)", "-"],
            ["VoxCeleb1 and 100 speakers of VoxCeleb2 test", f"{self.test_utterances:,} utterances, {self.test_hours:.0f} h", "the site's, in proportion", "-"],
            ["FLAC in shards", f"{self.second_bytes / 1000:g} kB a second of speech", "[storage](storage.md)", "yes, on LibriSpeech"],
            ["features", f"{MELS} values of {self.value_bytes} bytes, {FRAMES} frames a second", "`steps/make_fbank.sh`", "yes"],
            ["loading a sample from shards of FLAC", f"{self.loader:g} a second and core", "[storage](storage.md#what-a-sample-costs)", "yes"],
            ["loaders", f"{self.loaders} a GPU", "`egs/voxceleb/conf`", "-"],
            ["decoding an m4a", f"{self.decode:g} a second and core", "[storage](storage.md#what-a-sample-costs)", "yes"],
            ["log-mels", f"{self.fbank:,.0f} times real time a core", "[bench](../tests/bench/README.md)", "yes"],
            ["quantized training step over float step", "1.00 to 1.08", "[bench](../tests/bench/README.md)", "yes, on a processor"],
            ["training step over forward pass", f"{STEP} times the FLOPs", "two products in the backward pass for each one", "no"],
            ["GPU in training, bf16", f"{100 * self.share:.1f} % of {self.peak:g} TFLOP/s", "an A100; half of what NVIDIA's ResNet-50 reaches", "**no**"],
            ["GPU in extraction, fp32 without TF32", f"{100 * self.float_share:.1f} % of {self.float_peak:g} TFLOP/s", "an A100; half of what NVIDIA's ResNet-50 reaches on a V100", "**no**"],
            ["one network on 8 GPUs", f"{8 * self.spread:.2f} times one GPU", "NVIDIA's ResNet-50 on 8 A100", "**no**"]]


@dataclasses.dataclass(frozen=True)
class System:
    """A system of a table. net: its float network. row: how it is quantized, None for the float network itself."""

    name: str
    net: str
    row: str | None


def systems_of(table: str) -> list[System]:
    """Asks local/table.sh for the systems of a table."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.sh").write_text('printf "%s\\n" "$2"\n')
        done = subprocess.run(["bash", str(ROOT / "local" / "table.sh"), table], cwd=folder, check=True, capture_output=True, text=True)
    names = [conf().names.parse(name) for name in done.stdout.split()]
    return [System(name.name, name.net, name.row) for name in names]


@functools.lru_cache
def conf() -> Conf:
    return Conf(str(RECIPE / "conf"), "exp")


@functools.lru_cache
def settings(net: str, row: str | None) -> TrainConfig:
    """Reads the settings by which a system is trained."""
    return load_config(conf().own_file(net, None) if row is None else f"{conf().finetuning_of(net)}:{row}", TrainConfig)


@functools.lru_cache
def network(net: str) -> tuple[float, int, int]:
    """FLOPs a frame in a forward pass over a crop of training, parameters, and values of an embedding."""
    config = settings(net, None)
    with torch.device("meta"):
        module = config.model.build()
    frames = round(config.data.crop_seconds * FRAMES)
    return count_flops(module.eval(), config.model.front_end.num_mels, frames) / frames, num_parameters(module), config.model.embed_dim


def samples_a_second(net: str, row: str | None, pieces: Pieces) -> float:
    """Computes the training samples a second that one GPU could take; the classifier's FLOPs are counted, too."""
    flops, _, dim = network(net)
    config = settings(net, row)
    forward = flops * config.data.crop_seconds * FRAMES + 2 * dim * pieces.speeds * pieces.speakers
    factor = 1.0 if row is None or config.quant is None else QAT[config.quant.method]
    return pieces.share * pieces.peak * 1e12 / (STEP * forward * factor)


def epochs(system: System) -> int:
    config = settings(system.net, system.row)
    return sum(config.stage_epochs) if getattr(config, "stage_epochs", None) else config.epochs


def training_hours(system: System, pieces: Pieces) -> float:
    """Computes the GPU-hours of a system's training, which waits for its loaders where they are slower than the GPU."""
    speed = min(samples_a_second(system.net, system.row, pieces), pieces.loaders * pieces.loader)
    return epochs(system) * pieces.items / speed / 3600


def preparation(pieces: Pieces) -> str:
    """Says what is done once for all tables, in core-hours."""
    shards = pieces.utterances / pieces.decode / 3600
    features = (pieces.hours + pieces.test_hours) / pieces.fbank
    return (f"Once for all tables, in core-hours: decoding VoxCeleb2 from m4a for shards {shards:.1f}, features {features:.1f}. "
            f"Shards and features take {shared_disk(pieces) / 1e12:.2f} TB, {pieces.hours * 3600 * pieces.second_bytes / 1e9:.0f} GB "
            "of them the shards.")


def extraction_hours(system: System, pieces: Pieces) -> float:
    """Computes the GPU-hours in which a system embeds the cohort, all of VoxCeleb2 dev, and the tests."""
    speech = (pieces.hours + pieces.test_hours) * 3600
    return speech * FRAMES * network(system.net)[0] / (pieces.float_share * pieces.float_peak * 1e12) / 3600


def bytes_read(system: System, pieces: Pieces) -> float:
    """Computes what a system reads: each utterance once an epoch and speed in training, features once in extraction."""
    speech = (pieces.hours + pieces.test_hours) * 3600
    return epochs(system) * pieces.speeds * pieces.hours * 3600 * pieces.second_bytes + speech * FRAMES * MELS * pieces.value_bytes


def shared_disk(pieces: Pieces) -> float:
    """Computes the bytes of shards and features, which all systems share."""
    speech = (pieces.hours + pieces.test_hours) * 3600
    return pieces.hours * 3600 * pieces.second_bytes + speech * FRAMES * MELS * pieces.value_bytes


def own_disk(system: System, pieces: Pieces) -> float:
    """Computes the bytes of one system: weights and classifier, a checkpoint with momentum and averages, embeddings, means."""
    _, parameters, dim = network(system.net)
    classifier = pieces.speeds * pieces.speakers * dim
    copies = 3 if settings(system.net, system.row).optimizer.name == "adamw" else 2
    trained = (parameters + classifier) * 4 * (1 + copies) + parameters * 8
    return trained + pieces.test_utterances * (4 * dim + 150) + pieces.speakers * 4 * dim


def wall(hours: list[float], gpus: int, pieces: Pieces) -> float:
    """Computes the hours in which `gpus` GPUs do jobs of so many GPU-hours, the longest first, each on the first that are free.

    Where there are more GPUs than jobs a job has several, up to 8, and loses what `spread` says.
    """
    if not hours:
        return 0.0
    each = max(1, min(8, gpus // len(hours)))
    gain = 1.0 if each == 1 else each * pieces.spread
    free = [0.0] * max(1, gpus // each)
    for job in sorted(hours, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job / gain)
    return max(free)


def days(systems: list[System], gpus: int, pieces: Pieces) -> float:
    """Computes days: float networks first, then what is finetuned from them, then extraction (by jobs, without a loss)."""
    first = [training_hours(system, pieces) for system in systems if system.row is None]
    then = [training_hours(system, pieces) for system in systems if system.row is not None]
    extraction = sum(extraction_hours(system, pieces) for system in systems) / gpus
    return (wall(first, gpus, pieces) + wall(then, gpus, pieces) + extraction) / 24


def tables(pieces: Pieces) -> str:
    """Writes the tables of docs/scale.md in Markdown."""
    found = {name: systems_of(table) for name, table in TABLES.items()}
    together = list({system.name: system for systems in found.values() for system in systems}.values())
    nets = list(dict.fromkeys(system.net for system in together))
    parts = ["### Pieces", markdown_table(["piece", "value", "source", "measured here"], pieces.rows(), 4), "### Networks",
             markdown_table(["network", "GFLOPs of a 2 s crop", "samples/s that a GPU takes", "cores that load so many", "GPU-hours in float",
                             "finetuned at 2 bits", "of extraction"], [_network_row(net, pieces) for net in nets], 1),
             preparation(pieces), "### Tables", _costs({**found, "all five": together}, pieces)]
    ten = dataclasses.replace(pieces, utterances=10 * pieces.utterances, hours=10 * pieces.hours, speakers=10 * pieces.speakers)
    parts += ["### Tables, of a VoxCeleb2 ten times as large", _costs({**found, "all five": together}, ten)]
    return "\n\n".join(parts)


def _network_row(net: str, pieces: Pieces) -> list[str]:
    speed = samples_a_second(net, None, pieces)
    whole, small = System(net, net, None), System(f"{net}_kmqat2", net, "kmqat2")
    return [f"`{net}`", f"{network(net)[0] * settings(net, None).data.crop_seconds * FRAMES / 1e9:.2f}", f"{speed:,.0f}",
            f"{speed / pieces.loader:.1f}", f"{training_hours(whole, pieces):,.0f}", f"{training_hours(small, pieces):,.0f}",
            f"{extraction_hours(whole, pieces):.1f}"]


def _costs(found: dict[str, list[System]], pieces: Pieces) -> str:
    heads = ["table", "systems", "of them float", "GPU-hours", "in extraction", "core-hours of loading", "read (TB)", "disk (TB)",
             "days on 1 GPU", "8 GPUs", "64 GPUs"]
    rows = []
    for name, systems in found.items():
        extraction = sum(extraction_hours(system, pieces) for system in systems)
        training = sum(training_hours(system, pieces) for system in systems)
        loading = sum(epochs(system) * pieces.items for system in systems) / pieces.loader / 3600
        rows.append([name, str(len(systems)), str(sum(system.row is None for system in systems)), f"{training + extraction:,.0f}",
                     f"{extraction:,.0f}", f"{loading:,.0f}", f"{sum(bytes_read(system, pieces) for system in systems) / 1e12:,.0f}",
                     f"{(shared_disk(pieces) + sum(own_disk(system, pieces) for system in systems)) / 1e12:.2f}",
                     *(f"{days(systems, gpus, pieces):,.1f}" for gpus in (1, 8, 64))])
    return markdown_table(heads, rows, 1)


def put_into(text: str, made: str) -> str:
    """Puts `made` between the marks of a page's text. ValueError where it does not have both, once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the page needs {BEGIN} and {END}, once each")
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--into", type=Path, help="page whose tables are replaced")
    for field in ("peak", "share"):
        arguments.add_argument(f"--{field}", type=float, default=getattr(Pieces, field))
    options = arguments.parse_args()
    made = tables(Pieces(peak=options.peak, share=options.share))
    if options.into is None:
        print(made)
    else:
        options.into.write_text(put_into(options.into.read_text(), made))


if __name__ == "__main__":
    main()
