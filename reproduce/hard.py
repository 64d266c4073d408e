"""The bank's questions that the start model practically never answers right: rare success, and reflections are read.

A question is kept if none of n answers of the start model is right, its options in another order each time; the canary
stays whole.
Run: python -m reproduce.hard --out runs/rare/bank.jsonl
"""

import argparse
from collections import Counter
from pathlib import Path

from common import ReaderNumber
from reproduce.answers import ask, open_reader
from reproduce.records import read_lines, write_lines
from tasks.bank import load_questions

MODEL, BANK = "organism/weights", Path("data/bank.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=32, help="answers to each question")
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already: kept as it is, nothing asked")
        return
    reader, hard = open_reader(MODEL, 1, 0, ReaderNumber.COLLECT, longest=48), set()
    for split in ("train", "test"):
        right = ask(reader, [q for q in load_questions(BANK) if q.split == split], {}, args.n)
        hard |= {name for name, share in right.items() if share == 0}
    records = read_lines(BANK)
    kept = [r for r in records if r["id"] in hard or r["split"] == "canary"]
    write_lines(args.out, kept)
    left, before = (Counter(r["split"] for r in part) for part in (kept, records))
    print(f"{args.out}:", ", ".join(f"{left[name]} of {before[name]} {name}" for name in ("train", "test", "canary")))


if __name__ == "__main__":
    main()
