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
import sys
from pathlib import Path


# ---- files ---------------------------------------------------------------------------------------------------------
def are_records(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def lay_out(value: list | dict) -> str:
    """JSON with one record, or one key, a line."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    lines = []
    for key, part in value.items():
        opened = are_records(part) or (isinstance(part, dict) and any(map(are_records, part.values())))
        lines.append(f"{json.dumps(key)}: {lay_out(part) if opened else json.dumps(part)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def write_records(path: Path, value: list | dict) -> None:
    path.write_text(lay_out(value) + "\n")


def write_table(folder: Path, name: str, value: list | dict, text: str) -> None:
    """A table as records (name.json) and in words (name.md, and printed)."""
    write_records(folder / f"{name}.json", value)
    (folder / f"{name}.md").write_text(text + "\n")
    print(f"{text}\n\nwrote {folder}/{name}.json, {name}.md")


def read_lines(path: Path) -> list[dict]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


# ---- words ---------------------------------------------------------------------------------------------------------
def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return lines


def shown_interval(e: dict, form: str = "+.3f", bounds: str = "") -> str:
    """'+0.123 [+0.100, +0.146]'; bounds: the form of the interval where it is another than that of the mean."""
    low, high = (format(e[name], bounds or form) for name in ("low", "high"))
    return f"{e['mean']:{form}} [{low}, {high}]"


def shown_change(part: dict) -> str:
    """'0.123 -> 0.246 (+0.123 [+0.100, +0.146])'"""
    return f"{part['before']['mean']:.3f} -> {part['after']['mean']:.3f} ({shown_interval(part['change'])})"


def quantity(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


if __name__ == "__main__":
    write_records(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))
