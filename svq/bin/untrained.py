"""Measures a float network quantized without training in many ways: each method, at each number of bits, per layer or
per output channel, rounded or calibrated on unlabelled speech.

Each variant embeds the utterances of a trial list, and the trials are scored by cosine. Writes to OUT:

    untrained.tsv  a row for each variant: bytes of the packed file, EER and minDCF(0.01) with 95 % intervals over
                   speakers, difference of the EER to float with its interval, mean cosine to the float embeddings
    untrained.md   the table to read
    embeddings/    those of every variant: a run that was killed goes on from them and ends with the same bytes
"""

from __future__ import annotations

import copy
import dataclasses
import os

from svq.atomic import atomic_write
from svq.cli import add_network_options, check_network_options, parser, run_main, trials_of
from svq.errors import UserError

METHODS = {"uniform": {"method": "uniform"}, "integer": {"method": "integer", "scheme": "affine"},
           "width": {"partition": "width"}, "count": {"partition": "count"}, "lloyd": {}, "calibrated": {}}
COLUMNS = ("bits", "method", "codebook", "bytes", "eer", "eer_low", "eer_high", "eer_to_float", "to_float_low",
           "to_float_high", "mindcf", "cosine")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to quantize: bits, a name of METHODS, and one codebook a `layer` or a `channel`. The default is float."""

    bits: int = 32
    method: str = "float"
    codebook: str = "-"

    def config(self):
        from svq.quant import QuantConfig

        binary = "adaptive" if self.bits == 1 and self.method == "calibrated" else "same"
        return QuantConfig(bits=self.bits, per_channel=self.codebook == "channel", binary=binary, **METHODS[self.method])


def main() -> None:
    options = parse_options()
    from svq.data.extraction import compute_on

    compute_on(options.device, options.num_threads)
    study = Study(options)
    rows = [study.row(variant) for variant in study.variants()]
    with atomic_write(os.path.join(options.out, "untrained.md")) as file:
        file.write(markdown(rows, f"{options.model}; {study.listed.describe()}."))
    with atomic_write(os.path.join(options.out, "untrained.tsv")) as file:  # last: it says that the rest is there
        file.write("\t".join(COLUMNS) + "\n")
        file.writelines("\t".join(row[name] if isinstance(row[name], str) else f"{row[name]:.6g}" for name in COLUMNS)
                        + "\n" for row in rows)
    print(f"{options.out}/untrained.tsv: {len(rows)} rows")


class Study:
    """The float network, the trial list, and the embeddings that are kept of every variant."""

    def __init__(self, options):
        from svq.bits.block_run import model_digest
        from svq.evaluation.development import DevelopmentList, EmbeddingStore
        from svq.models import load_model

        self.options = options
        self.net, self.model = load_model(options.model)
        if self.model.quant is not None:
            raise UserError(f"{options.model}: is quantized already; measure the float model that it was made from")
        self.listed = DevelopmentList(options.data, options.trials, options.max_utts, options.seed)
        self.store = EmbeddingStore(os.path.join(options.out, "embeddings"), self.listed, self.model.front_end,
                                    model_digest(options.model), options.input, 0.0, options.batch_frames, options.device)
        self.features = None
        self.origin = None

    def variants(self):
        """Yields the float variant, then all others in the order of --bits."""
        yield Variant()
        for bits in self.options.bits:
            for method in self.options.methods:
                if bits == 1 and method not in ("uniform", "lloyd", "calibrated"):
                    continue
                for codebook in self.options.codebooks:
                    yield Variant(bits, method, codebook)

    def calibration(self):
        """Reads the features (B, T, F) to calibrate on, once."""
        from svq.data.extraction import calibration_features

        if self.features is None:
            o = self.options
            self.features = calibration_features(o.calibration_data, self.model.front_end, o.calibration_utts, 3.0, o.seed,
                                                 o.input)
        return self.features

    def network(self, variant: Variant):
        from svq.quant import quantize_
        from svq.quant.api import freeze_
        from svq.quant.calibrated import calibrate_

        net = copy.deepcopy(self.net).to(self.options.device)
        if variant.method == "calibrated":
            calibrate_(net, variant.config(), self.calibration().to(self.options.device))
        elif variant.method != "float":
            quantize_(net, variant.config())
        return freeze_(net)

    def key(self, variant: Variant) -> list:
        """Lists what the embeddings of a variant depend on, besides the network and the trial list."""
        from svq.config import to_dict
        from svq.data.extraction import digest_of

        if variant.method == "float":
            return []
        found = [to_dict(variant.config())]
        return [*found, digest_of(self.calibration())] if variant.method == "calibrated" else found

    def size(self, variant: Variant) -> int:
        from svq.pack.file import packed_bytes

        if variant.method == "float":
            return os.path.getsize(os.path.join(self.options.model, "model.safetensors"))
        return packed_bytes(self.net, variant.config(), self.model)

    def row(self, variant: Variant) -> dict:
        from svq.backend.bootstrap import interval
        from svq.evaluation.development import drifts, measure

        title = f"{variant.bits} bits, {variant.method}, {variant.codebook}"
        vectors = self.store.get(self.key(variant), lambda: self.network(variant), title)
        found = measure(self.listed, vectors, False, self.options.bootstrap, self.options.seed)
        if self.origin is None:
            self.origin = found, vectors
        before, float_vectors = self.origin
        row = (str(variant.bits), variant.method, variant.codebook, str(self.size(variant)), found.eer,
               *interval(found.eers), found.eer - before.eer, *interval(found.eers - before.eers), found.mindcf,
               1 - float(drifts(float_vectors, vectors).mean()))
        print(f"{title}: EER {found.eer:.2f} %, {found.eer - before.eer:+.2f} to float, cosine {row[-1]:.4f}", flush=True)
        return dict(zip(COLUMNS, row))


def markdown(rows: list[dict], note: str) -> str:
    """Writes the rows as a Markdown table, with a note below it."""
    from svq.draw.tables import markdown_table

    heads = ("bits", "method", "one codebook a", "file (bytes)", "EER (%)", "95 % interval", "to float", "95 % interval",
             "minDCF(0.01)", "cosine to float")
    cells = [(row["bits"], row["method"], row["codebook"], f"{int(row['bytes']):,}", f"{row['eer']:.2f}",
              f"{row['eer_low']:.2f} to {row['eer_high']:.2f}", f"{row['eer_to_float']:+.2f}",
              f"{row['to_float_low']:+.2f} to {row['to_float_high']:+.2f}", f"{row['mindcf']:.3f}", f"{row['cosine']:.4f}")
             for row in rows]
    return f"{markdown_table(heads, cells, 3)}\n\n{note}\n"


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder of the float model")
    arguments.add_argument("--data", required=True, help="Kaldi data directory with the utterances of the trials")
    arguments.add_argument("--trials", help="trial list: enroll test target|nontarget; default: DATA/trials")
    arguments.add_argument("--out", required=True, help="folder to write to")
    arguments.add_argument("--calibration-data",
                           help="data directory of unlabelled speech to calibrate on; needed for method calibrated")
    arguments.add_argument("--calibration-utts", type=int, default=128, help="how many of its utterances")
    arguments.add_argument("--bits", default="8,4,3,2,1", help="bits, e.g. 4,3,2")
    arguments.add_argument("--methods", default=",".join(METHODS),
                           help=f"how weights are quantized, any of {', '.join(METHODS)}")
    arguments.add_argument("--codebooks", default="layer,channel",
                           help="one codebook for each layer, for each output channel, or both: layer,channel")
    arguments.add_argument("--max-utts", type=int, default=0,
                           help="use at most this many utterances of the list, spread over its speakers; 0: all")
    arguments.add_argument("--bootstrap", type=int, default=200, help="resamplings of the speakers; 0: no intervals")
    arguments.add_argument("--seed", type=int, default=1, help="seed of all choices and resamplings")
    add_network_options(arguments)
    options = arguments.parse_args()
    check_network_options(arguments, options)
    options.trials = trials_of(options)
    for name, allowed in (("methods", list(METHODS)), ("codebooks", ["layer", "channel"]),
                          ("bits", [str(bits) for bits in range(1, 9)])):
        words = getattr(options, name).split(",")
        for word in words:
            if word not in allowed:
                arguments.error(f"--{name}: '{word}' is none of {', '.join(allowed)}")
        setattr(options, name, [int(word) for word in words] if name == "bits" else words)
    if "calibrated" in options.methods and options.calibration_data is None:
        arguments.error("--methods calibrated needs --calibration-data; give it, or leave calibrated out")
    return options


if __name__ == "__main__":
    run_main(main)
