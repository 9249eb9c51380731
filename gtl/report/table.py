"""Tables of evidence: what each start gave, every number with its n and its 95 % interval.

An evidence *document* is what ``gtl fewshot --json`` prints: ``command``, ``data``, ``starts``, ``descendants``, ``instinct``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gtl.comparison import COMPACT, SCRATCH, Comparison, gate, signed, verdicts
from gtl.stats import DataInterval, Estimate, data_interval, paired_difference, paired_table

Row = Mapping[str, Any]
LEARNGENE, COMPACT_LEARNGENE = "learngene", f"{COMPACT} learngene"
NONE, UNKNOWN = "-", "unknown"
NEAREST_MEAN, NEIGHBOURS = "nearest class mean", "k nearest neighbours"
RANKS = ("same image", "another", "over scratch")
RIGHT = {
    *("shots", "inherited", "accuracy", "gain, points", "n", "rate", "images"),
    *(NEAREST_MEAN, NEIGHBOURS, *RANKS),
}
WHOLE = {"shots", "start", "n", "rate", "images", *RANKS}  # never broken into lines, however narrow the terminal


def starts_table(results: Sequence[Row], starts: Mapping[str, Row] | None = None) -> list[dict[str, str]]:
    """Rows of the table of descendants, ready to print; every row has the same columns.

    Accuracies are in per cent and gains in percentage points, both with half the width or the ends of the 95 % interval.
    A gain is the mean of paired differences, so it is surer than its two accuracies would suggest.

    Args:
        results: plain forms of StartResult.
        starts: start -> what it inherits (``share``) and the training images behind it (``images``).
    """
    starts = starts or {}
    several = len({result["shots"] for result in results}) > 1
    rows = []
    for result in results:
        about = starts.get(result["start"], {})
        rows.append(
            {
                **({"shots": str(result["shots"])} if several else {}),
                "start": str(result["start"]),
                "inherited": f"{100 * about['share']:.1f} %" if "share" in about else NONE,
                "accuracy": mean_text(result["accuracy"]),
                "gain, points": NONE if result.get("gain") is None else gain_text(result["gain"]),
                "n": str(result["accuracy"]["n"]),
                "rate": f"{result['learning_rate']:g}",
                "images": _images_text(about),
            }
        )
    return rows


def _images_text(about: Row) -> str:
    if "images" not in about:
        return NONE
    return UNKNOWN if about["images"] is None else f"{about['images']:,}"


def instinct_table(instincts: Sequence[Row]) -> list[dict[str, str]]:
    """Rows of the table of newborns that never trained: one a start, with a column for each way to classify.

    Args:
        instincts: plain forms of InstinctResult. Those of gtl's first evidence name no method: it was NEAREST_MEAN.
    """
    methods = list(dict.fromkeys(_method(result) for result in instincts))
    several = len({_task(result) for result in instincts}) > 1
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for result in instincts:
        start, task = str(result["start"]), _task(result)
        first = {"start": start, **({"task": task} if several else {}), **dict.fromkeys(methods, NONE)}
        row = rows.setdefault((start, task), first)
        row[_method(result)] = mean_text(result["accuracy"])
        row["n"] = str(result["accuracy"]["n"])
    return list(rows.values())


def saliency_table(saliency: Row) -> list[dict[str, str]]:
    """Rows of how far newborns' saliency maps agree with the trained network's: one a start.

    Args:
        saliency: plain form of `gtl.saliency.Saliency`.
    """
    return [
        {
            "start": str(row["start"]),
            "same image": rank_text(row["same"]),
            "another": rank_text(row["other"]),
            "over scratch": NONE if row["gain"] is None else rank_text(row["gain"], "+"),
            "n": str(row["same"]["n"]),
        }
        for row in saliency["agreement"]
    ]


def _method(result: Row) -> str:
    return str(result.get("method", NEAREST_MEAN))


def _task(result: Row) -> str:
    return f"{result['n_way']}-way {result['n_shot']}-shot"


def _tasks(instincts: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(_task(result) for result in instincts))


def rank_text(estimate: Row, sign: str = "") -> str:
    """``0.31 ± 0.02``, a rank correlation."""
    return f"{estimate['mean']:{sign}.2f} ± {(estimate['high'] - estimate['low']) / 2:.2f}"


def mean_text(estimate: Row) -> str:
    """``55.3 ± 1.2 %``."""
    return f"{100 * estimate['mean']:.1f} ± {50 * (estimate['high'] - estimate['low']):.1f} %"


def gain_text(estimate: Row) -> str:
    """``+14.2 (+12.9 to +15.5)``, in points."""
    mean, low, high = (signed(estimate[key]) for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def claims(results: Sequence[Row]) -> list[str]:
    """What the intervals allow to say, in words: of every start against scratch, and of the learngene against the others.

    `compared` says which. All of them hold jointly, see `gtl.comparison.verdicts`. Where results carry accuracies class by
    class (``by_class``), they also say what holds for other classes.
    """
    several = len({result["shots"] for result in results}) > 1
    pairs = compared(results)
    found = verdicts([comparison for _, comparison in pairs])
    lines = []
    for (result, _), verdict in zip(pairs, found, strict=True):
        shots = f", {shots_text(result['shots'])}" if several else ""
        lines.append(f"{result['start']}{shots}: {verdict}")
    return lines


def compared(results: Sequence[Row]) -> list[tuple[Row, Comparison]]:
    """The comparisons that are drawn from results, each with the result that it is about.

    Every start with scratch, the learngene with all others, the compact learngene with all that are as small.
    """
    scratch = {result["shots"]: result for result in results if result["start"] == SCRATCH}
    pairs = []
    for result in results:
        if result.get("gain") is not None:
            gain = Estimate(*(result["gain"][key] for key in ("mean", "low", "high", "n")))
            data = _data_interval(result, scratch.get(result["shots"], {}))
            pairs.append((result, Comparison(SCRATCH, gain, data)))
    for own in (result for result in results if result["start"] in (LEARNGENE, COMPACT_LEARNGENE)):
        small = own["start"] == COMPACT_LEARNGENE
        for other in results:
            fits = other["start"].startswith(COMPACT) if small else other["start"] != SCRATCH
            if fits and other["start"] != own["start"] and other["shots"] == own["shots"]:
                gain = paired_difference(own["accuracies"], other["accuracies"])
                pairs.append((own, Comparison(other["start"], gain, _data_interval(own, other))))
    return pairs


def _data_interval(result: Row, other: Row) -> DataInterval | None:
    """None where one of them does not say its accuracies class by class, or for a single class."""
    if not result.get("by_class") or not other.get("by_class") or len(result["by_class"][0]) < 2:
        return None
    return data_interval(paired_table(result["by_class"], other["by_class"]))


def gates(results: Sequence[Row]) -> list[str]:
    """Gate R in words, a line for each number of shots that has a one-shot gene and a start to set it against."""
    shots = sorted({result["shots"] for result in results})
    lines = []
    for count in shots:
        found = gate({result["start"]: result["accuracies"] for result in results if result["shots"] == count})
        if found is not None:
            lines.append(f"{f'{shots_text(count)}: ' if len(shots) > 1 else ''}{found}")
    return lines


def reading_claims(results: Sequence[Row]) -> str:
    """How claims are to be read."""
    text = "better or worse: shown for all lines at once, at 5 % (Holm's correction); ranges: single 95 % intervals"
    by_class = any(result.get("by_class") for result in results)
    return f"{text}, for others like them over seeds and classes" if by_class else text


def shots_text(shots: int) -> str:
    """``20 images a class``."""
    return f"{shots} image{'s' * (shots != 1)} a class"


def render_starts(document: Row) -> Group:
    """An evidence document for a terminal."""
    results = document["descendants"]
    shots = ", ".join(shots_text(count) for count in sorted({result["shots"] for result in results}))
    title = f"descendants on novel classes of {document['data']['source']}: {shots}"
    parts: list[Any] = [rich_table(starts_table(results, document["starts"]), title=title)]
    lines = (reading(document), *claims(results), reading_claims(results), *gates(results))
    parts += [Text(line, style="dim") for line in lines]
    if document.get("instinct"):
        title = f"newborns that never trained: {_tasks(document['instinct'])}, accuracy over n episodes"
        parts.append(rich_table(instinct_table(document["instinct"]), title=title))
    if (document.get("saliency") or {}).get("agreement"):
        title = "where they look: rank agreement with the trained network's saliency maps"
        parts.append(rich_table(saliency_table(document["saliency"]), title=title))
        parts.append(Text(LOOKING, style="dim"))
    return Group(*parts)


READING = (
    "accuracy: mean ± half of the 95 % interval over n seeds; gain: over scratch with its 95 % interval, paired by seed; "
    "seeds draw other images of the same classes and other new weights; "
    "rate: learning rate, chosen on validation classes{of}; images: training images behind the start"
)
LOOKING = (
    "Spearman's correlation over the places of a map, mean ± half of the 95 % interval over n images: 1 is the same order of "
    "places, 0 is none; another: with the map of another image, as much as the place in the picture alone explains. It says "
    "where newborns answer, not that the object is there nor that the answer is of use; genes cut from that very network "
    "agree by their nature"
)


def reading(document: Row) -> str:
    """How the table of descendants is to be read, as one sentence without its full stop."""
    chosen = (document.get("protocol") or {}).get("rates_chosen_on")
    of = "" if chosen is None else f" of {one_line(chosen['source'])}"
    return READING.format(of=of) + protocol_text(document)


def protocol_text(document: Row) -> str:
    """How long descendants were trained, the same for every start, as the end of a sentence."""
    protocol = document.get("protocol")
    if not protocol:
        return ""
    steps, batch, test = (int(protocol[key]) for key in ("steps", "batch_size", "test_images"))
    return f"; every descendant trained for {steps} steps of at most {batch} images, and was tested on {test} images a class"


def rich_table(rows: Sequence[Mapping[str, str]], *, title: str = "") -> Table:
    """A rich table of such rows; the learngene's are bold."""
    heading = Text(title, style="bold") if title else None
    table = Table(box=box.SIMPLE_HEAD, title=heading, title_justify="left", collapse_padding=True, show_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right" if column in RIGHT else "left", no_wrap=column in WHOLE)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()), style="bold" if row.get("start") == "learngene" else None)
    return table


def markdown_starts(document: Row) -> str:
    """An evidence document as Markdown: the tables, how to read them, and what they allow to say."""
    parts = [
        markdown_table(starts_table(document["descendants"], document["starts"])),
        f"{READING[0].upper()}{plain(reading(document)[1:])}.",
    ]
    results = document["descendants"]
    parts.append("\n".join(f"* {plain(line)}." for line in claims(results)))
    parts += [f"{line[0].upper()}{plain(line[1:])}." for line in (reading_claims(results), *gates(results))]
    if document.get("instinct"):
        parts += [
            f"Newborns that never trained, {_tasks(document['instinct'])}: accuracy of simple classifiers on their features (n "
            "episodes of the same images; the interval says nothing about other images):",
            markdown_table(instinct_table(document["instinct"])),
        ]
    if (document.get("saliency") or {}).get("agreement"):
        parts += [
            "Where they look: rank agreement of their saliency maps with the trained network's:",
            markdown_table(saliency_table(document["saliency"])),
            f"{LOOKING[0].upper()}{LOOKING[1:]}.",
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of such rows; "" if there are none."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [columns, ["---:" if column in RIGHT else "---" for column in columns]]
    lines += [[plain(cell) for cell in row.values()] for row in rows]
    return "\n".join(_cells(line) for line in lines)


def plain(text: object) -> str:
    """Text on one line that Markdown and HTML take literally, whoever wrote it."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", one_line(text))


def one_line(text: object) -> str:
    """Text on one line, without the control characters by which a stranger's file could write over a terminal."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", str(text)).strip()


def printable(value: Any) -> Any:
    """JSON with every text on `one_line`."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {one_line(key): printable(entry) for key, entry in value.items()}
    return [printable(entry) for entry in value] if isinstance(value, list | tuple) else value


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
