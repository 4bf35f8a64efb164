"""Prints the table of all networks: parameters beside the published counts, FLOPs, bytes in float and packed.

Trains nothing. With --into, the table also goes into a Markdown file, between its two marker lines

    <!-- zoo:begin -->
    <!-- zoo:end -->

With --published, the table of the checkpoints that `svq download` knows goes into another file likewise, and nothing else
is done. Where a parameter count is more than 0.5 % off the published one, the reason stands below the table.
"""

from pathlib import Path

from svq.cli import parser, run_main
from svq.errors import UserError
from svq.progress import progress


def main():
    args = parser(__doc__)
    args.add_argument("--seconds", type=float, default=2.0, help="length of the recording that FLOPs are counted for")
    args.add_argument("--bits", type=int, nargs="+", default=[4, 2, 1], help="bits that packed sizes are given at")
    args.add_argument("--only", nargs="+", metavar="ARCH", help="show only networks of these architectures")
    args.add_argument("--into", "--markdown", type=Path, help="Markdown file with the markers")
    args.add_argument("--marker", default="zoo", help="name in the two marker lines")
    args.add_argument("--published", type=Path, help="Markdown file, with the markers, for the published checkpoints")
    args = args.parse_args()
    from svq.evaluation.operations import frames_in
    from svq.evaluation.zoo import markdown, measure, published_markdown, unexplained
    from svq.hub.catalogue import catalogue
    from svq.report.markdown import update_file

    for width in args.bits:
        if not 1 <= width <= 8:
            raise UserError(f"--bits {width}: it must be from 1 to 8")
    if args.published:
        table = published_markdown(list(catalogue().values()), args.bits)
        update_file(args.published, table, "published")
        return
    frames = frames_in(args.seconds)
    if frames < 1:
        raise UserError(f"--seconds {args.seconds:g}: not the length of a recording of one frame (0.025 s) or more")
    rows = [measure(name, entry, frames, args.bits) for name, entry in progress(wanted(args.only), desc="networks")]
    table = markdown(rows, args.seconds, args.bits)
    print(table)
    if args.into:
        update_file(args.into, table, args.marker)
    if unexplained(rows):
        raise UserError(f"no reason given for the parameter count of {', '.join(unexplained(rows))}")


def wanted(only):
    """Lists (name, entry) of the networks to show; UserError for an unknown architecture."""
    from svq.evaluation.zoo import entries
    from svq.nets import ARCHITECTURES

    for arch in only or ():
        if arch not in ARCHITECTURES:
            raise UserError(f"--only {arch}: no such architecture; known: {', '.join(ARCHITECTURES)}")
    return [(name, entry) for name, entry in entries().items() if not only or entry.arch in only]


if __name__ == "__main__":
    run_main(main)
