"""Command line of the library: what a person wants to read, near-duplicates pooled, the best point of each question.

python -m introspection.library show runs/bank/grpo_introspect/library.jsonl
python -m introspection.library merge one.jsonl two.jsonl --out both.jsonl
python -m introspection.library export one.jsonl --out best.jsonl
"""

import argparse
import json
import sys
from pathlib import Path

from common import UserError
from introspection.library import accuracies, best, gain, load_library, merge


def shown(records: list[dict], top: int) -> str:
    """The best points of each cluster, by lower bound: advantage, interval, how often they were written, flags."""
    lines, clusters = [], sorted({r["cluster"] for r in records})
    for cluster in clusters:
        part = sorted(
            (r for r in records if r["cluster"] == cluster), key=lambda r: -(r["ci95"][0] if r["ci95"] else -1.0)
        )
        lines += ["", f"{cluster}: {len(part)} points"]
        for r in part[:top]:
            scores = (
                f"{gain(r):+.2f} [{r['ci95'][0]:+.2f}, {r['ci95'][1]:+.2f}], n {accuracies(r)[2]}"
                if r["ci95"]
                else "not measured"
            )
            flags = " LEAK" * r["leak"] + " META-GAMING" * r["meta_gaming"]
            lines.append(f"  {scores:34s} x{r['count']:<3d} {r['source'] or '-':6s} {r['text']}{flags}")
    return "\n".join(lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="library", description="read, merge and export libraries of learning points")
    parser.add_argument("action", choices=["show", "merge", "export"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="JSONL to write (merge, export)")
    parser.add_argument("--cluster", default="", help="only clusters whose name starts with this")
    parser.add_argument("--top", type=int, default=5, help="points shown of each cluster")
    args = parser.parse_args()
    try:
        records = merge(
            [
                r
                for file in args.files
                for r in load_library(file)
                if r["text"] and r["cluster"].startswith(args.cluster)
            ]
        )
        if args.action == "show":
            print(shown(records, args.top) or "no points")
            return
        if args.out is None:
            raise UserError(f"{args.action} needs --out FILE")
        if args.action == "export":
            sound = [r for r in records if not r["leak"]]
            records = [
                best([r for r in sound if r["question_id"] == name])
                for name in dict.fromkeys(r["question_id"] for r in sound)
            ]
        args.out.write_text("".join(json.dumps(r) + "\n" for r in records))
        print(f"{len(records)} points -> {args.out}")
    except UserError as error:
        print(f"library: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
