"""Writes exp/results.tsv and exp/report.html from the score files of all systems.

Reads, under --exp: <system>/scores/<list>/<backend>_<norm>.score and .llr, <system>/summary.json, <system>/curves.csv,
<system>/provenance.yaml and the quantized models. Looks for a trial list as it is given, then in --data. A missing file
is an error that names the stage that makes it. Both outputs are rewritten whole.
"""

from pathlib import Path

from svq.atomic import atomic_write
from svq.cli import parser, run_main
from svq.errors import UserError


def arguments():
    args = parser(__doc__)
    args.add_argument("--exp", type=Path, default=Path("exp"), help="folder of the systems")
    args.add_argument("--data", type=Path, default=Path("data"), help="folder of the data directories")
    args.add_argument("--systems", nargs="+", required=True, help="names of folders under --exp")
    args.add_argument("--trials", nargs="+", required=True, help="trial lists, such as data/test/trials")
    args.add_argument("--backends", nargs="+", default=["cosine", "plda"], help="back ends")
    args.add_argument("--norms", nargs="+", default=["none", "asnorm"], help="score normalizations")
    args.add_argument("--plot-backend", default="", help="back end of headline and plots; empty: the first")
    args.add_argument("--plot-norm", default="", help="score normalization of headline and plots; empty: the last")
    args.add_argument("--bootstrap", type=int, default=200,
                      help="resamplings of the speakers for intervals and differences; 0: none")
    args.add_argument("--seed", type=int, default=0, help="seed of the resamplings")
    args.add_argument("--conf", help="the recipe's settings, whose rows systems are named after; ./conf when not given, where "
                      "it is there, else the repository's rows")
    args.add_argument("--title", default="Speaker verification results", help="title of the page")
    args.add_argument("--results", default="", help="table to write; empty: <exp>/results.tsv")
    args.add_argument("--html", default="", help="page to write; empty: <exp>/report.html")
    return args.parse_args()


def find_list(path: str, data: Path) -> Path:
    """Finds a trial list as it is given, else within the data folder; UserError where it is in neither place."""
    found = [place for place in (Path(path), data / path) if place.is_file()]
    if not found:
        raise UserError(f"{path} is missing, here and in {data}; stage 1 makes it")
    return found[0]


def main():
    args = arguments()
    from svq.names import names_in_conf
    from svq.report.collect import Plan, collect_report
    from svq.report.results import write_results

    plan = Plan(
        exp=args.exp,
        systems=tuple(args.systems),
        trials=tuple(find_list(path, args.data) for path in args.trials),
        backends=tuple(args.backends),
        norms=tuple(args.norms),
        plot=(args.plot_backend or args.backends[0], args.plot_norm or args.norms[-1]),
        bootstrap=args.bootstrap,
        seed=args.seed,
    )
    report = collect_report(plan, args.title, names_in_conf(args.conf, args.systems))
    from svq.report.index import finish
    from svq.report.html import render  # matplotlib: not before all inputs are known to be good

    page = render(report)
    results, html = args.results or args.exp / "results.tsv", args.html or args.exp / "report.html"
    write_results(results, report.rows)
    with atomic_write(html) as file:
        file.write(page)
    finish(html)
    print(f"wrote {results} ({len(report.rows)} rows) and {html} ({len(page.encode()) / 1e3:.0f} kB)")


if __name__ == "__main__":
    run_main(main)
