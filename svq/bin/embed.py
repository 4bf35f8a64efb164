"""Computes speaker embeddings of recordings, in any of the runtimes.

  python -m svq.bin.embed --out emb ann.wav bob.mp3                        # ids: ann, bob; the model that comes with svq
  python -m svq.bin.embed --model model.onnx --out emb.npz data/test/wav.scp

INPUT is one of these:
  recordings            their ids are the file names, without folder and ending
  one list *.scp        lines "id recording": a file, archive:offset or, with SVQ_ALLOW_PIPES=true, `command |`
  a data directory      its wav.scp is read
Writes OUT.ark and OUT.scp (Kaldi float vectors, keys sorted) or, where OUT ends in .npz, NumPy arrays `ids` (N,) and
`embeddings` (N, D) float32; whole or not at all. A recording that cannot be read, is silent or has less
than --min-seconds of sound is an error that names it, after all others have been tried.
The embeddings equal those of svq.bin.extract, but for recordings over --window-seconds: theirs are averages over windows.
"""

from __future__ import annotations

import os
import sys

from svq.bin.verify import add_model_options, check_model_options
from svq.cli import parser, run_main
from svq.errors import UserError, some_of
from svq.progress import progress


def main() -> None:
    options = parse_options()
    recordings = recordings_of(options.input)
    from svq.verifier import Verifier

    verifier = Verifier.load(options.model, options.runtime, options.num_threads, min_seconds=options.min_seconds,
                             window_seconds=options.window_seconds,
                             warn=lambda line: print(f"warning: {line}", file=sys.stderr))
    found, failed = {}, []
    for key in progress(sorted(recordings, key=str.encode), desc="embed"):
        try:
            found[key] = verifier.embed(recordings[key])
        except UserError as error:
            failed.append(key)
            print(f"{key}: {error}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(recordings)} recordings have no embedding, and nothing is written; "
                        f"mend them or leave them out: {some_of(failed)}")
    write(options.out, found)
    print(f"{len(found)} embeddings in {options.out if options.out.endswith('.npz') else options.out + '.scp'}")


def recordings_of(inputs: list[str]) -> dict:
    """Maps ids to recordings: file names or, for the lines of a list, `Rx`. UserError where an id is missing or twice."""
    if len(inputs) == 1 and (os.path.isdir(inputs[0]) or inputs[0].endswith(".scp")):
        return recordings_in(inputs[0])
    recordings = {}
    for path in inputs:
        key = os.path.splitext(os.path.basename(path))[0]
        if not key or len(key.split()) != 1 or key in recordings:
            why = f"the id `{key}` of two recordings" if key in recordings else "its name gives no id without spaces"
            raise UserError(f"{path}: {why}; give a list instead, *.scp with lines: id recording")
        recordings[key] = path
    return recordings


def recordings_in(path: str) -> dict:
    """Reads a list, or the wav.scp of a data directory: id -> `Rx`. UserError for a line that cannot be read."""
    from svq.data.datadir import DataDir
    from svq.data.rxfilename import parse, require_allowed
    from svq.data.table import Table

    table = DataDir(path).wav if os.path.isdir(path) else Table.read(path)
    require_allowed(table)
    try:
        recordings = {key: parse(value) for key, value in table.items()}
    except UserError as error:
        raise UserError(f"{table.path}: {error}") from None
    if len(recordings) < len(table):
        raise UserError(f"{table.path}: an id stands there twice; give every recording its own")
    return recordings


def write(out: str, embeddings: dict) -> None:
    """Writes embeddings by id, in their order, to OUT.ark and OUT.scp, or to OUT where that is an .npz."""
    if not out.endswith(".npz"):
        from svq.data.features import write_ark

        write_ark(f"{out}.ark", f"{out}.scp", embeddings.items())
        return
    import numpy as np

    from svq.atomic import atomic_path

    with atomic_path(out) as temporary, open(temporary, "wb") as file:
        np.savez(file, ids=np.array(list(embeddings)), embeddings=np.stack(list(embeddings.values())))


def parse_options():
    arguments = parser(__doc__, renamed={"--backend": "--runtime"})
    add_model_options(arguments)
    arguments.add_argument("--out", required=True, help="name of the outputs without .ark and .scp, or NAME.npz")
    arguments.add_argument("input", nargs="+", metavar="INPUT", help="recordings, one list *.scp, or a data directory")
    options = arguments.parse_args()
    check_model_options(arguments, options)
    return options


if __name__ == "__main__":
    run_main(main)
