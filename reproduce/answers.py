"""First answers of a model to a bank's questions: what reproduce/ compares methods by, whatever they trained.

Every question is answered n times, its options in another order each time, by the model alone; with --points the point of the question's
cluster stands in its turn. Answers of the same weights to the same questions with the same points that are there already are kept, so that a script which stopped goes on.
Run: python -m reproduce.answers MODEL --questions data/bank.jsonl --splits test,canary --out FILE
"""

import argparse
import hashlib
import json
from pathlib import Path

from common import ReaderNumber, ReproducePhase, Shared, rng, write
from introspection import models
from introspection.reader import Reader
from tasks.mcq import grade, load_questions, same_views


def ask(reader: Reader, questions: list, points: dict[str, str], n: int) -> dict[str, float]:
    """Share of right answers of each question. points: by cluster; a composite gets those of both; a cluster without one is asked without."""
    views = [view for i, q in enumerate(questions) for view in same_views(q, n, rng(0, ReproducePhase.VIEWS, i))]
    told = [". ".join(points[c] for c in view.cluster.split("+") if c in points) or None for view in views]
    said = reader.sample(
        [reader.prompt(view, point) for view, point in zip(views, told, strict=True)], ReproducePhase.ANSWERS
    )
    right = [grade(reader.chat.text(c.ids), view) for c, view in zip(said, views, strict=True)]
    return {q.id: sum(right[i * n : (i + 1) * n]) / n for i, q in enumerate(questions)}


def main() -> None:
    parser = argparse.ArgumentParser(description="first answers of a model, by question")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, default=Path("data/bank.jsonl"))
    parser.add_argument("--splits", default="test", help="separated by commas")
    parser.add_argument("--points", type=Path, help="JSONL of records with 'cluster' and 'text'")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=8, help="answers to each question")
    args = parser.parse_args()
    lines = args.points.read_text().splitlines() if args.points else []
    points = {r["cluster"]: r["text"] for r in map(json.loads, lines)}
    weights = hashlib.sha256(
        b"".join(p.read_bytes() for p in sorted(Path(args.model).glob("*.safetensors")))
    ).hexdigest()
    questions = [q for q in load_questions(args.questions) if q.split in args.splits.split(",")]
    bank = hashlib.sha256(repr([(q.id, q.question, q.options, q.answer) for q in questions]).encode()).hexdigest()
    asked = {
        "model": args.model,
        "weights": weights,
        "points": points,
        "n": args.n,
        "splits": args.splits,
        "bank": bank,
    }
    if args.out.exists() and asked.items() <= json.loads(args.out.read_text()).items():
        return
    policy, chat = models.load_policy(args.model, Shared(model=args.model)), models.load_chat(args.model)
    key = (0, 0, ReaderNumber.ANSWERS)
    reader = Reader(policy, chat, 1.0, 96, key)  # 96 tokens: a recalled point and an answer
    each = {
        split: ask(reader, [q for q in questions if q.split == split], points, args.n)
        for split in args.splits.split(",")
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, json.dumps(asked | {"generated_tokens": reader.generated, "each": each}) + "\n")
    print(
        f"{args.model}: " + ", ".join(f"{split} {sum(part.values()) / len(part):.3f}" for split, part in each.items())
    )


if __name__ == "__main__":
    main()
