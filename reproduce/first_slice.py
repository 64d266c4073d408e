"""Puts the evaluations of reproduce/first_slice.sh together: results/first_slice.jsonl, what each run measured.

python -m reproduce.first_slice runs/first_slice results/first_slice.jsonl preeclampsia-0 bank-0 ...
"""

import sys
from pathlib import Path

from reproduce.records import read_lines, write_lines


def collect(runs: Path, names: list[str]) -> list[dict]:
    rows = []
    for name in names:
        config, seed = name.rsplit("-", 1)
        for record in read_lines(runs / name / "grpo_introspect/eval.jsonl"):
            record["questions"] = len(record.pop("per_question"))
            record.pop("clusters", None)
            rows.append({"config": config, "seed": int(seed)} | record)
    return rows


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    write_lines(out, collect(runs, sys.argv[3:]))
    print(f"wrote {out}")
