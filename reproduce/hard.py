"""The bank's questions that the start model practically never answers right: rare success where reflections can be read and written.

A question is kept if none of n answers of the start model is right, its options in another order each time; the canary stays whole.
Run: python -m reproduce.hard --out runs/rare/bank.jsonl
"""

import argparse
import json
from pathlib import Path

from common import ReaderNumber, Shared, write
from introspection import models
from introspection.reader import Reader
from reproduce.answers import ask
from tasks.mcq import load_questions

MODEL, BANK = "organism/weights", Path("data/bank.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=32, help="answers to each question")
    args = parser.parse_args()
    if args.out.exists():
        return
    key = (1, 0, ReaderNumber.COLLECT)
    reader = Reader(models.load_policy(MODEL, Shared()), models.load_chat(MODEL), 1.0, 48, key)
    hard: set[str] = set()
    for split in ("train", "test"):
        right = ask(reader, [q for q in load_questions(BANK) if q.split == split], {}, args.n)
        hard |= {name for name, share in right.items() if share == 0}
    records = [json.loads(line) for line in BANK.read_text().splitlines()]
    kept = [r for r in records if r["id"] in hard or r["split"] == "canary"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, "".join(json.dumps(r) + "\n" for r in kept))
    sizes = [
        [sum(r["split"] == split for r in part) for part in (kept, records)] for split in ("train", "test", "canary")
    ]
    print(
        f"{args.out}: {sizes[0][0]} of {sizes[0][1]} train, {sizes[1][0]} of {sizes[1][1]} test, {sizes[2][0]} of {sizes[2][1]} canary"
    )


if __name__ == "__main__":
    main()
