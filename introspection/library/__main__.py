"""Command line of the library: what a person wants to read, near-duplicates pooled, the best point of each question.

python -m introspection.library show runs/bank/grpo_introspect/library.jsonl
python -m introspection.library merge one.jsonl two.jsonl --out both.jsonl
python -m introspection.library export one.jsonl --out best.jsonl
"""

import argparse
import json
import sys
from pathlib import Path

from common import UserError, write
from introspection.library import accuracies, best, gain, load_library, merge


def lower_bound(record: dict) -> float:
    return record["ci95"][0] if record["ci95"] else -1.0


def line_of(r: dict) -> str:
    """Advantage, interval, how often a point was written, by whom, its text and flags."""
    scores = "not measured"
    if r["ci95"]:
        scores = f"{gain(r):+.2f} [{r['ci95'][0]:+.2f}, {r['ci95'][1]:+.2f}], n {accuracies(r)[2]}"
    flags = [flag for flag, raised in ((" LEAK", r["leak"]), (" META-GAMING", r["meta_gaming"])) if raised]
    return f"  {scores:34s} x{r['count']:<3d} {r['source'] or '-':6s} {' '.join(r['text'].split())}{''.join(flags)}"


def shown(records: list[dict], top: int) -> str:
    """The best points of each cluster, by lower bound."""
    lines = []
    for cluster in sorted({r["cluster"] for r in records}):
        part = sorted((r for r in records if r["cluster"] == cluster), key=lambda r: -lower_bound(r))
        lines += ["", f"{cluster}: {len(part)} points", *map(line_of, part[:top])]
    return "\n".join(lines[1:])


def best_of_each_question(records: list[dict]) -> list[dict]:
    """Leaks are left out."""
    of_question: dict[str, list[dict]] = {}
    for r in (r for r in records if not r["leak"]):
        of_question.setdefault(r["question_id"], []).append(r)
    return [best(part) for part in of_question.values()]


def write_library(path: Path, records: list[dict]) -> None:
    """Whole or not at all. Raises UserError where there is no writing."""
    if path.exists() and not path.is_file():
        raise UserError(f"--out {path}: not a file")
    try:
        write(path, "".join(json.dumps(r) + "\n" for r in records))
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="library", description="read, merge and export libraries of learning points")
    parser.add_argument("action", choices=["show", "merge", "export"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="JSONL to write (merge, export)")
    parser.add_argument("--cluster", default="", help="only clusters whose name starts with this")
    parser.add_argument("--top", type=int, default=5, help="points shown of each cluster")
    args = parser.parse_args()
    try:
        read = [r for file in args.files for r in load_library(file)]
        records = merge([r for r in read if r["text"] and r["cluster"].startswith(args.cluster)])
        if args.action == "show":
            print(shown(records, args.top) or "no points")
            return
        if args.out is None:
            raise UserError(f"{args.action} needs --out FILE")
        if args.action == "export":
            records = best_of_each_question(records)
        write_library(args.out, records)
        print(f"{len(records)} points -> {args.out}")
    except UserError as error:
        print(f"library: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
