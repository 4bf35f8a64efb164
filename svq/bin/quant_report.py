"""Writes a folder of figures and tables on a float system and the systems quantized from it.

Reads, under --exp: results.tsv (of svq.bin.report), the model folders of the systems and, where it is there,
<parent>/sensitivity.tsv. Writes to --out a page with everything, index.html; each figure as <name>.svg with its
numbers in <name>.tsv; and the table as results.md and results.tex. Leaves out figures that the systems have no numbers
for, such as bits by layer where no system mixes them.
"""

from pathlib import Path

from svq.atomic import atomic_write
from svq.cli import parser, run_main
from svq.errors import UserError
from svq.names import names_in_conf
from svq.report.results import read_results


def arguments():
    args = parser(__doc__)
    args.add_argument("--exp", type=Path, default=Path("exp"), help="folder of the systems")
    args.add_argument("--parent", required=True, help="the float system, a folder under --exp")
    args.add_argument("--systems", nargs="*", default=[],
                      help="systems to show beside --parent; none: all in the results that were made from it")
    args.add_argument("--out", type=Path, help="folder to write to; <exp>/quantization/<parent> when not given")
    args.add_argument("--results", type=Path, help="table to read; <exp>/results.tsv when not given")
    args.add_argument("--trials", nargs="*", default=[], help="trial lists by name, such as test; none: all")
    args.add_argument("--backend", default="", help="back end shown; empty: the first in the results")
    args.add_argument("--norm", default="", help="score normalization shown; empty: the last in the results")
    args.add_argument("--layer", default="", help="layer whose levels are shown; empty: the embedding layer")
    args.add_argument("--methods", nargs="+", default=["uniform", "pot", "apot", "kmqat"],
                      help="methods whose levels are shown")
    args.add_argument("--bits", nargs="+", type=int, default=[4, 3], help="bits at which these levels are shown")
    args.add_argument("--conf", help="the recipe's settings, whose rows systems are named after; ./conf when not given, where "
                      "it is there, else the repository's rows")
    args.add_argument("--title", default="Quantization", help="title of the page")
    return args.parse_args()


def main():
    args = arguments()
    rows = read_results(args.results or args.exp / "results.tsv")
    names = names_in_conf(args.conf, (row.system for row in rows))
    wanted = chosen(rows, args, names)
    out = args.out or args.exp / "quantization" / args.parent
    from svq.draw.page import write_figures
    from svq.report import quant_page  # torch and matplotlib: not before the results are known to be good
    from svq.report.index import finish
    from svq.report.paper_table import as_latex, as_markdown, paper_tables
    from svq.report.quant_page import render
    from svq.report.results import finetuned, in_order, read_systems

    systems = read_systems(args.exp, rows, names)
    shown = finetuned(dict.fromkeys(row.system for row in wanted))
    quantized = in_order(systems[name] for name in shown if name != args.parent)
    figures = quant_page.frontiers([row for row in wanted if row.system in shown], systems)
    figures += quant_page.of_layers(args.exp, args.parent, quantized, args.layer, args.methods, args.bits)
    tables = paper_tables(rows, systems, wanted)
    write_figures(out, figures)
    with atomic_write(out / "results.md") as file:
        file.write(as_markdown(tables) + "\n")
    with atomic_write(out / "results.tex") as file:
        file.write(as_latex(tables))
    with atomic_write(out / "index.html") as file:
        file.write(render(args.title, tables, figures))
    finish(out / "index.html")
    print(f"wrote {out}/index.html: {len(shown)} systems, {len(figures)} figures")


def chosen(rows, args, names):
    """Chooses the rows of the parent and its systems for the trial lists, back end and normalization asked for.

    UserError where a system is not in the results, or no row is left.
    """
    there = {row.system for row in rows}
    made = sorted(name for name in there if args.parent in names.ancestry(name))
    wanted = [args.parent, *(args.systems or made)]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UserError(f"{', '.join(missing)}: not in the results, which hold {', '.join(sorted(there))}")
    backend, norm = args.backend or rows[0].backend, args.norm or rows[-1].norm
    found = [row for row in rows if row.system in wanted and (row.backend, row.norm) == (backend, norm)
             and (not args.trials or row.trials in args.trials)]
    if not found:
        raise UserError(f"no results of {backend} {norm} {' '.join(args.trials)}: "
                        "see the columns trials, backend and norm")
    return found


if __name__ == "__main__":
    run_main(main)
