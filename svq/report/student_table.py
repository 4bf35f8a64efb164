"""Teachers and their students: a table for each trial list, the scorings side by side."""

from __future__ import annotations

import math

from svq.names import STUDENT, Names
from svq.report.results import Row, unique

_HEADS = ["System", "Weights (M)", "fewer than teacher", "Bits", "File (MB)", "smaller than teacher"]


def teacher_of(name: str, systems: set[str], names: Names) -> str | None:
    """What a system is measured against: student-xvector-narrowBN_kmqat2 -> xvector; None where that is not there.

    A student trained with labels only, which has no teacher, is measured against the first that the others have.
    """
    net = names.parse(name).net
    student = names.parse(net)
    if not student.student:
        return net if net != name and net in systems else None
    if student.teacher is not None:
        return student.teacher if student.teacher in systems else None
    others = (names.parse(other).teacher for other in sorted(systems) if names.parse(other).stem != STUDENT)
    return next((other for other in others if other in systems), None)


def student_tables(rows: list[Row], names: Names) -> str:
    """Markdown: a line for each system, with EER, its interval and minDCF for every back end and normalization. names: the
    grammar of the systems' names."""
    systems = {row.system for row in rows}
    parts = []
    for trials in unique(row.trials for row in rows):
        chosen = [row for row in rows if row.trials == trials]
        parts.append(f"### Trials: {trials}\n\n{chosen[0].num_target:,} target and {chosen[0].num_nontarget:,} "
                     f"non-target trials.\n\n{_table(chosen, systems, names)}")
    return "\n\n".join(parts)


def _table(rows: list[Row], systems: set[str], names: Names) -> str:
    scorings = unique((row.backend, row.norm) for row in rows)
    found = {(row.system, row.backend, row.norm): row for row in rows}
    heads = list(_HEADS)
    for scoring in scorings:
        heads += [f"{', '.join(scoring)}: EER (%)", "95 % interval", "minDCF(0.01)"]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    first = {row.system: row for row in reversed(rows)}
    for name in unique(row.system for row in rows):
        cells = _sizes(first[name], first.get(teacher_of(name, systems, names)))
        for scoring in scorings:
            cells += _measures(found.get((name, *scoring)))
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sizes(row: Row, teacher: Row | None) -> list[str]:
    def less(size, whole):
        return "-" if teacher is None else f"{100 * (1 - size / whole):.1f} %"

    return [row.system, f"{row.params / 1e6:.3f}", less(row.params, teacher and teacher.params), f"{row.avg_bits:.3g}",
            f"{row.size_bytes / 1e6:.3f}", less(row.size_bytes, teacher and teacher.size_bytes)]


def _measures(row: Row | None) -> list[str]:
    if row is None:
        return ["-"] * 3
    interval = "-" if math.isnan(row.eer_low) else f"{row.eer_low:.2f} to {row.eer_high:.2f}"
    return [f"{row.eer:.2f}", interval, f"{row.mindcf01:.3f}"]
