"""Makes a page that verifies voices in the browser: enrol by microphone or file, check a voice, see score and decision.

MODEL is an .onnx file that takes waveforms (svq.bin.export --front-end true). OUT becomes a folder of static files that
holds all it needs: the page, the model, ONNX Runtime Web. Open OUT/index.html, or put the folder on any web server. The
page makes no connection: no recording leaves the device.

The page scores, decides and refuses as svq.bin.verify does with the same options, which it keeps. The prior, the costs
and the threshold can be changed on the page.

ONNX Runtime Web comes from npm, one pinned version. Without npm: --ort-web.
"""

from __future__ import annotations

import os
import sys

from svq.bin.verify import add_decision_options, add_scoring_options, check_decision_options
from svq.cli import parser, run_main


def main() -> None:
    options = parse_options()
    from svq.demo.folder import files_of, require_place, write
    from svq.demo.model import facts_of, require_onnx, require_waveforms
    from svq.demo.runtime import find_runtime
    from svq.files import fingerprint
    from svq.verifier import Verifier

    require_onnx(options.model)
    require_place(options.out)
    verifier = Verifier.load(options.model, "onnxruntime", calibration=options.calibration, mean=options.mean,
                             min_seconds=options.min_seconds, window_seconds=options.window_seconds)
    require_waveforms(options.model, verifier.embedder.metadata)
    if verifier.calibration is None:
        print(f"warning: {verifier.why_uncalibrated}; the page decides only by a threshold of the score", file=sys.stderr)
    with open(options.model, "rb") as file:
        content = file.read()
    costs = {"pTarget": options.p_target, "cMiss": options.c_miss, "cFa": options.c_fa, "threshold": options.threshold}
    model = facts_of(verifier, content, options.name or os.path.basename(options.model), options.title,
                     fingerprint(("file", options.model)), costs)
    files = files_of(model, find_runtime(options.ort_web))
    write(options.out, files)
    print(f"{options.out}: {len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB, of which the model is "
          f"{len(content) / 1e6:.2f} MB; open {os.path.join(options.out, 'index.html')}")


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="an .onnx file that takes waveforms")
    arguments.add_argument("--out", required=True, help="folder of the page; replaces one that was made before")
    arguments.add_argument("--title", default="Is it the same speaker?", help="title at the top of the page")
    arguments.add_argument("--name", help="name of the model on the page (None: its file name)")
    arguments.add_argument("--ort-web", metavar="PLACE",
                           help="archive of onnxruntime-web (.tgz), or a folder that it lies in (None: from npm)")
    add_scoring_options(arguments)
    add_decision_options(arguments)
    arguments.add_argument("--min-seconds", type=float, default=0.3, help="recordings with less sound are refused")
    arguments.add_argument("--window-seconds", type=float, default=60.0,
                           help="longer recordings are embedded in equal windows of at most this length; 0: never")
    options = arguments.parse_args()
    check_decision_options(arguments, options)
    return options


if __name__ == "__main__":
    run_main(main)
