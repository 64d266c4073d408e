"""How well the two detectors tell labelled points apart: python -m tests.detectors [FOLDER ...] [--show]

Files of tests/points hold one object a line: `kind` (leak, sound, exam, knowledge), `text`, and the `options` of the
point's own question. The domains in held_out were read by nobody who wrote patterns; whoever tunes them reads `tuned`
alone, and never uses --show on the others.
"""

import argparse
import json
from pathlib import Path

from introspection.detectors import is_meta_gaming, states_answer

POINTS = Path(__file__).parent / "points"
DETECTORS = {  # detector: (what it should flag, what it should not, how it is asked)
    "leak": ("leak", "sound", lambda row: states_answer(row["text"], tuple(row["options"]))),
    "exam strategy": ("exam", "knowledge", lambda row: is_meta_gaming(row["text"])),
}


def read(folder: Path) -> list[dict]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval)."""
    centre = (hits + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (hits * (n - hits) / n + z**2 / 4) ** 0.5
    return centre - half, centre + half


def measure(rows: list[dict]) -> dict[str, tuple[int, int, int, int]]:
    """By detector: (flagged of those that it should flag, how many, flagged of those that it should not, how many)."""
    measured = {}
    for name, (wanted, unwanted, flags) in DETECTORS.items():
        right, wrong = ([flags(row) for row in rows if row["kind"] == kind] for kind in (wanted, unwanted))
        measured[name] = sum(right), len(right), sum(wrong), len(wrong)
    return measured


def shown(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{hits / n:.3f} [{low:.3f}, {high:.3f}] (n {n})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.detectors", description="recall and false alarms on labelled points")
    parser.add_argument("folders", nargs="*", type=Path, default=[POINTS / "tuned", POINTS / "held_out"])
    parser.add_argument("--show", action="store_true", help="print every point on which a detector is wrong")
    args = parser.parse_args()
    for folder in args.folders:
        rows = read(folder)
        for name, (hits, n, alarms, m) in measure(rows).items():
            shares = [
                f"{k / of:.3f} [{a:.3f}, {b:.3f}]" for k, of in ((hits, n), (alarms, m)) for a, b in [wilson(k, of)]
            ]
            print(f"{folder.name:9s} {name:14s} recall {shares[0]} (n {n}), false alarms {shares[1]} (n {m})")
        for name, (wanted, unwanted, flags) in DETECTORS.items():
            for row in rows if args.show else []:
                if row["kind"] in (wanted, unwanted) and flags(row) != (row["kind"] == wanted):
                    print(f"{name}: {row['kind']}: {row['text']!r} {row['options']}")


if __name__ == "__main__":
    main()
