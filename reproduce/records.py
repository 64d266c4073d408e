"""What the tables of reproduce/ share: how their records are kept, and how estimates read.

    python -m reproduce.records FROM TO        # a JSON file, laid out as below

results/*.json hold one record a line, so that a diff shows which records changed: a list is '[', its records, ']';
an object has one key a line, and so has an object in it that holds records; records under a key have a line each.
Values are json.dumps's.

A record is what a table says of an arm, a contrast or a measurement. An estimate in it is an object: `mean`, `low`
and `high` (95 % interval), `p`, what it rests on (`clusters`, `questions` or `problems`, `seeds`), and the values
themselves: `by_cluster`, {cluster: [the mean over its questions, of each seed]}, or `by_seed`, the mean of each
seed, where the unit is a problem or a question. Files that were written before these two were kept lack them, so
readers do without.
"""

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from common import write
from introspection.report.figures import pyplot


# ---- files ---------------------------------------------------------------------------------------------------------
def holds_records(value) -> bool:
    """Whether it is a list of records, or an object with one."""
    if isinstance(value, dict):
        return any(isinstance(part, list) and holds_records(part) for part in value.values())
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def lay_out(value: list | dict) -> str:
    """JSON with one record, or one key, a line."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    texts = {key: lay_out(part) if holds_records(part) else json.dumps(part) for key, part in value.items()}
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {text}" for key, text in texts.items()) + "\n}"


def write_records(path: Path, value: list | dict) -> None:
    path.write_text(lay_out(value) + "\n")


def write_table(folder: Path, name: str, value: list | dict, text: str) -> None:
    """A table as records (name.json) and in words (name.md, and printed)."""
    write_records(folder / f"{name}.json", value)
    (folder / f"{name}.md").write_text(text + "\n")
    print(f"{text}\n\nwrote {folder}/{name}.json, {name}.md")


def save_picture(path: Path, draw, *what) -> None:
    """The figure that `draw` makes of something, as a file, if matplotlib is there."""
    plt = pyplot()
    if plt is None:
        print("no matplotlib (pip install -r requirements.txt): the picture is left out")
    else:
        draw(plt, *what).savefig(path, metadata={"Date": None})


def read_lines(path: Path) -> list[dict]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, "".join(json.dumps(r) + "\n" for r in records))


def group(pairs: Iterable[tuple]) -> dict:
    """{key: [its values]} of (key, value) pairs."""
    groups: dict = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


# ---- words ---------------------------------------------------------------------------------------------------------
def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    first, *others = ("| " + " | ".join(cells) + " |" for cells in (head, *rows))
    return [first, "|" + "---|" * len(head), *others]


def shown_interval(e: dict, form: str = "+.3f", bounds: str = "") -> str:
    """'+0.123 [+0.100, +0.146]'; bounds: the form of the interval where it is another than that of the mean."""
    low, high = (format(e[name], bounds or form) for name in ("low", "high"))
    return f"{e['mean']:{form}} [{low}, {high}]"


def shown_accuracy(e: dict, form: str = ".3f", bounds: str = "") -> str:
    """The same of an accuracy: Student's intervals know no limit, so what is beyond 0 or 1 is not shown."""
    return shown_interval(e | {"low": max(e["low"], 0.0), "high": min(e["high"], 1.0)}, form, bounds)


def shown_change(part: dict) -> str:
    """'0.123 -> 0.246 (+0.123 [+0.100, +0.146])'"""
    return f"{part['before']['mean']:.3f} -> {part['after']['mean']:.3f} ({shown_interval(part['change'])})"


def shown_tokens(row: dict) -> str:
    """Tokens generated, trained: means over seeds."""
    return ", ".join(f"{statistics.mean(row[name]) / 1000:,.0f} k" for name in ("generated_tokens", "trained_tokens"))


def quantity(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


if __name__ == "__main__":
    write_records(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))
