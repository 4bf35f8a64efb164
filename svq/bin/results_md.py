"""Puts the tables of results.tsv into a Markdown file, between its two marker lines

    <!-- results:begin -->
    <!-- results:end -->

What stands round them is left as it is. Also writes a LaTeX table when asked.
"""

from pathlib import Path

from svq.atomic import atomic_write
from svq.cli import parser, run_main
from svq.errors import UserError


def main():
    args = parser(__doc__)
    args.add_argument("--results", type=Path, default=Path("exp/results.tsv"), help="table to show")
    args.add_argument("--into", type=Path, default=Path("RESULTS.md"), help="file with the markers")
    args.add_argument("--command", default="", help="what was typed to get the results, shown above them")
    args.add_argument("--hardware", default="auto",
                      help="what they were made on; auto: this machine's processor; '' leaves it out")
    args.add_argument("--only", action="append", default=[], metavar="COLUMN=VALUE,VALUE",
                      help="rows to show, by system, trials, backend or norm; may be repeated")
    args.add_argument("--latex", type=Path, help="LaTeX table to write as well")
    args = args.parse_args()
    from svq.report.hardware import describe
    from svq.report.markdown import latex, markdown, update_file
    from svq.report.results import read_results

    rows = chosen(read_results(args.results), args.only)
    hardware = describe() if args.hardware == "auto" else args.hardware
    update_file(args.into, markdown(rows, args.command, hardware))
    if args.latex:
        with atomic_write(args.latex) as file:
            file.write(latex(rows))
    print(f"{args.into}: {len(rows)} rows of {args.results}")


def chosen(rows, conditions):
    """The rows that meet every condition `column=value,value`; UserError where none does."""
    for condition in conditions:
        column, _, values = condition.partition("=")
        if column not in ("system", "trials", "backend", "norm"):
            raise UserError(f"--only {condition}: write it as system=, trials=, backend= or norm=VALUE,VALUE")
        rows = [row for row in rows if getattr(row, column) in values.split(",")]
    if not rows:
        raise UserError(f"--only {' '.join(conditions)}: no such rows in the results")
    return rows


if __name__ == "__main__":
    run_main(main)
