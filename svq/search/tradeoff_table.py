"""The table that sets a float network against what was made of it: what was counted, assumed and measured, apart."""

from __future__ import annotations

import dataclasses
from html import escape
from typing import Sequence

from svq.atomic import atomic_write


@dataclasses.dataclass(frozen=True)
class Row:
    """A system. bits: per weight. size_bytes: on disk. top1, top5, eer and their 95 % intervals: percent. gflops:
    counted; gflops_equivalent: under an assumption; latency_ms: measured."""

    system: str
    file: str
    backend: str
    bits: float
    size_bytes: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float
    eer: float
    eer_low: float
    eer_high: float
    gflops: float
    gflops_equivalent: float
    latency_ms: float


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the rows were measured under. assumption: behind gflops_equivalent."""

    data: str
    speakers: int
    probes: int
    probe_seconds: float
    seconds: float
    times: int
    num_threads: int
    hardware: str
    assumption: str


HEADS = ("system", "runs in", "bits", "file (bytes)", "top-1 (%)", "95 %", "top-5 (%)", "EER (%)", "95 %",
         "GFLOPs counted", "GFLOPs theoretical", "ms measured", "against the first")
LEFT = 2  # columns of words


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's text; latency is set against that of the first row."""
    return [[row.system, row.backend, f"{row.bits:.3g}", f"{row.size_bytes:,}", f"{row.top1:.2f}",
             f"{row.top1_low:.1f} to {row.top1_high:.1f}", f"{row.top5:.2f}", f"{row.eer:.2f}",
             f"{row.eer_low:.2f} to {row.eer_high:.2f}", f"{row.gflops:.4g}", f"{row.gflops_equivalent:.4g}",
             f"{row.latency_ms:.2f}", f"{rows[0].latency_ms / row.latency_ms:.2f} x"] for row in rows]


def notes(rows: Sequence[Row], about: Conditions) -> list[str]:
    """How to read it, and what of it is not real."""
    found = [
        f"Identification: {about.speakers} speakers of {about.data}, one segment of {about.probe_seconds:g} s or less "
        f"enrolled, {about.probes} probes, plain cosine. Intervals are from resampled speakers. EER: all trials of the "
        "same set, cosine after the set's own mean is taken off, no score normalization.",
        f"GFLOPs counted: the network's convolutions and matrix products for {about.seconds:g} s, by torch's counter, "
        "a multiplication and an addition being two. Quantizing weights changes none of them.",
        f"GFLOPs theoretical: not computed by anything here. The assumption: {about.assumption}. It would take a "
        "machine whose speed grows so with every bit saved.",
        f"ms measured: from a waveform of {about.seconds:g} s to its embedding, front end included, median of "
        f"{about.times} calls in turns, {about.num_threads} thread(s), {about.hardware}. In torch quantized weights are "
        "computed with as 32-bit floats, so a saving is to be seen only in exported INT8 files.",
    ]
    if all(row.backend == "torch" for row in rows):
        found.append("All systems here run in torch: differences in ms are chance.")
    if rows[0].top1 == 100:
        found.append("The first system identifies every probe: these data cannot show that another is better, and a "
                     "loss shows only where it is larger than the interval.")
    return found


def markdown(rows: Sequence[Row], about: Conditions) -> str:
    rule = ["---"] * LEFT + ["---:"] * (len(HEADS) - LEFT)
    lines = ["| " + " | ".join(line) + " |" for line in [HEADS, rule, *cells(rows)]]
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {note}" for note in notes(rows, about)) + "\n"


def html(rows: Sequence[Row], about: Conditions) -> str:
    """The table and its notes as HTML."""
    def line(tag: str, words: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag}{" class=l" if i < LEFT else ""}>{escape(word)}</{tag}>'
                                for i, word in enumerate(words)) + "</tr>"

    body = "".join(line("td", each) for each in cells(rows))
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(rows, about))
    return (f'<div class="table card"><table><thead>{line("th", HEADS)}</thead><tbody>{body}</tbody></table></div>'
            f'<ul class="note">{listed}</ul>')


def write_tsv(path, rows: Sequence[Row]) -> None:
    """A column for each field of Row, as it is."""
    names = [field.name for field in dataclasses.fields(Row)]
    with atomic_write(path) as file:
        file.write("\t".join(names) + "\n")
        for row in rows:
            values = [getattr(row, name) for name in names]
            file.write("\t".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values) + "\n")
