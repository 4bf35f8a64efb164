"""Puts the tables of results.tsv into a Markdown file, between its two marker lines

    <!-- results:begin -->
    <!-- results:end -->

Leaves the rest of the file as it is. Also writes LaTeX when asked. There are three layouts:

  full      every measure, a table for each trial list
  paper     the trial lists side by side, the systems grouped by method, with quantization type (from
            <exp>/<system>/config.yaml; a <system>-int8 needs none) and compression ratio; beside the EER of a <system>
            stands that of <system>-ptq, the same system before finetuning, where there is one
  students  how much smaller than its teacher each student is, with the scorings side by side; no LaTeX
"""

from pathlib import Path

from svq.atomic import atomic_write
from svq.cli import parser, run_main
from svq.errors import UserError


def main():
    args = parser(__doc__)
    args.add_argument("--results", type=Path, default=Path("exp/results.tsv"), help="table to show")
    args.add_argument("--into", type=Path, default=Path("RESULTS.md"), help="file with the markers")
    args.add_argument("--marker", default="results", help="name in the two marker lines, for files with several tables")
    args.add_argument("--layout", choices=["full", "paper", "students"], default="full", help="columns of the tables")
    args.add_argument("--exp", type=Path, default=Path("exp"), help="folder of the systems, for the layout `paper`")
    args.add_argument("--conf", help="the recipe's settings, whose rows systems are named after; ./conf when not given, where "
                      "it is there, else the repository's rows")
    args.add_argument("--command", default="", help="command that gave the results, shown above them")
    args.add_argument("--hardware", default="auto",
                      help="machine that the results were made on; auto: the processor of this one; '' leaves it out")
    args.add_argument("--only", action="append", default=[], metavar="COLUMN=VALUE,VALUE",
                      help="rows to show, by system, trials, backend or norm; may be repeated")
    args.add_argument("--latex", type=Path, help="LaTeX table to write as well")
    args = args.parse_args()
    from svq.hardware import describe
    from svq.report.markdown import made_by, update_file
    from svq.report.results import read_results

    if args.latex and args.layout == "students":
        raise UserError("--latex: the layout students has no LaTeX; leave it out, or take another --layout")
    rows = read_results(args.results)
    wanted = chosen(rows, args.only)
    hardware = describe() if args.hardware == "auto" else args.hardware
    tables, latex = laid_out(args, rows, wanted)
    update_file(args.into, "\n\n".join([*made_by(args.command, hardware), tables]), args.marker)
    if args.latex:
        with atomic_write(args.latex) as file:
            file.write(latex)
    print(f"{args.into}: {len(wanted)} rows of {args.results}")


def laid_out(args, rows, wanted) -> tuple[str, str]:
    """Lays out the wanted rows as Markdown and as LaTeX (empty for the layout `students`)."""
    from svq.names import names_in_conf

    layout, names = args.layout, names_in_conf(args.conf, (row.system for row in rows))
    if layout == "students":
        from svq.report.markdown import student_tables

        return student_tables(wanted, names), ""
    if layout == "full":
        from svq.report.markdown import latex, markdown

        return markdown(wanted), latex(wanted)
    from svq.report.paper_table import as_latex, as_markdown, paper_tables
    from svq.report.results import read_systems

    tables = paper_tables(rows, read_systems(args.exp, rows, names), wanted)
    return as_markdown(tables), as_latex(tables)


def chosen(rows, conditions):
    """Chooses the rows that meet every condition `column=value,value`; UserError where none does."""
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
