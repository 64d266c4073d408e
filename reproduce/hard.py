"""The bank's questions that the start model practically never answers right: rare success where reflections can be read and written.

A question is kept if none of n answers of the start model is right, its options in another order each time; the canary stays whole.
Run: python reproduce/hard.py --out runs/rare/bank.jsonl
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from answers import answered

import models
from chat import Chat
from common import Shared, write
from measure import Reader
from tasks.mcq import load_questions

MODEL, BANK = "organism/weights", Path("data/bank.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=32, help="answers to each question")
    args = parser.parse_args()
    if args.out.exists():
        return
    tokenizer = models.load_tokenizer(MODEL)
    reader = Reader(models.load_policy(MODEL, Shared()), Chat(tokenizer, models.eos_ids(MODEL, tokenizer)), 1.0, 48, (1, 0, 8))
    hard: set[str] = set()
    for split in ("train", "test"):
        right = answered(reader, [q for q in load_questions(BANK) if q.split == split], {}, args.n)
        hard |= {name for name, share in right.items() if share == 0}
    records = [json.loads(line) for line in BANK.read_text().splitlines()]
    kept = [r for r in records if r["id"] in hard or r["split"] == "canary"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, "".join(json.dumps(r) + "\n" for r in kept))
    sizes = [[sum(r["split"] == split for r in part) for part in (kept, records)] for split in ("train", "test", "canary")]
    print(f"{args.out}: {sizes[0][0]} of {sizes[0][1]} train, {sizes[1][0]} of {sizes[1][1]} test, {sizes[2][0]} of {sizes[2][1]} canary")


if __name__ == "__main__":
    main()
