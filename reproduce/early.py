"""Puts the answers of reproduce/early.sh together: results/early.json, a record a method, number of steps and seed.

python -m reproduce.early runs/early results
"""

import json
import sys
from operator import itemgetter
from pathlib import Path

from reproduce.records import write_records


def collect(runs: Path) -> list[dict]:
    rows = []
    for path in runs.glob("*-*-[0-9].json"):
        (method, steps, seed), each = path.stem.split("-"), json.loads(path.read_text())["each"]
        rows.append(
            {
                "method": method,
                "steps": int(steps),
                "seed": int(seed),
                **{split: sum(part.values()) / len(part) for split, part in each.items()},
            }
        )
    return sorted(rows, key=itemgetter("method", "steps", "seed"))


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs)
    write_records(out / "early.json", rows)
    print(*rows, f"wrote {out}/early.json", sep="\n")
