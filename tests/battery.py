"""How well the grader reads a file of model turns: python -m tests.battery FILE [--show]

FILE has one object a line: `text` (the turn), `options` (as they were shown), `says` (the letter that a careful reader
takes as its answer, null for none). Printed are agreement, other letters and turns that were not read;
--show lists what is not agreed on. tests/forms.jsonl is the committed set.
"""

import argparse
import json
from pathlib import Path

from tasks.answers import find_answer


def read(path: Path) -> list[tuple[dict, str | None]]:
    """(record, the letter that the grader reads) of each line."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    found = [find_answer(row["text"], row["options"]) for row in rows]
    return [(row, answer[1] if answer else None) for row, answer in zip(rows, found, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.battery", description="agreement of the grader with labelled turns")
    parser.add_argument("file", type=Path)
    parser.add_argument("--show", action="store_true", help="print every turn that is not agreed on")
    args = parser.parse_args()
    rows = read(args.file)
    kinds = {
        "agree": [letter == row["says"] for row, letter in rows],
        "other letter": [letter not in (None, row["says"]) for row, letter in rows],
        "not read": [letter is None and row["says"] is not None for row, letter in rows],
    }
    for name, hits in kinds.items():
        print(f"{name:13s} {sum(hits):5d} of {len(hits)}  {sum(hits) / len(hits):.4f}")
    for row, letter in (pair for pair in rows if args.show and pair[1] != pair[0]["says"]):
        print(f"---- read {letter}, says {row['says']}: {row['options']}\n{row['text']}")


if __name__ == "__main__":
    main()
