"""First answers of a model to a bank's questions: what reproduce/ compares methods by, whatever they trained.

Every question is answered n times, its options in another order each time, by the model alone; with --points the
point of the question's cluster stands in its turn, with --recall the model recalls its likeliest point wherever the
threshold that stage 2 left is reached. Answers of the same weights to the same questions with the same
points that are there already are kept, so that a script which stopped goes on. Run: python -m reproduce.answers
MODEL --questions data/bank.jsonl --splits test,canary --out FILE
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from common import ROOT, ReaderNumber, ReproducePhase, Shared, rng, write
from introspection import models
from introspection.reader import Reader
from introspection.recall import begin_turns, recall_likeliest, threshold_of
from reproduce.records import group, read_lines
from tasks.bank import load_questions
from tasks.mcq import grade, same_views


def open_reader(model: str, *key: int, longest: int = 96, temperature: float = 1.0) -> Reader:
    """96 tokens hold a recalled point and an answer."""
    policy, chat = models.load_policy(model, Shared(model=model)), models.load_chat(model)
    return Reader(policy, chat, temperature, longest, key, fire_at=threshold_of(ROOT / model))


def ask(reader: Reader, questions: list, points: dict[str, str], n: int, recall: bool = False) -> dict[str, float]:
    """Share of right answers of each question.

    points: by cluster; a composite gets those of both; a cluster without one is asked without. recall: by threshold.
    """
    views = [view for i, q in enumerate(questions) for view in same_views(q, n, rng(0, ReproducePhase.VIEWS, i))]
    told = [". ".join(points[c] for c in view.cluster.split("+") if c in points) or None for view in views]
    asked = [reader.prompt(view, point) for view, point in zip(views, told, strict=True)]
    if recall:
        draws = [rng(*reader.key, ReproducePhase.FIRST, i).random() for i in range(len(asked))]
        begun = begin_turns(reader, asked, reader.fire_at, draws)
        begun = recall_likeliest(reader, asked, begun, ReproducePhase.ANSWERS, reader.max_new_tokens)
        asked = [prompt + turn for prompt, turn in zip(asked, begun, strict=True)]
    said = [reader.chat.text(c.ids) for c in reader.sample(asked, ReproducePhase.ANSWERS)]
    right = [grade(text, view) for text, view in zip(said, views, strict=True)]
    return {q.id: sum(right[i * n : (i + 1) * n]) / n for i, q in enumerate(questions)}


def fingerprint(questions: list) -> str:
    return hashlib.sha256(repr([(q.id, q.question, q.options, q.answer) for q in questions]).encode()).hexdigest()


def read_answers(path: Path, questions: list) -> dict[str, dict[str, list[float]]]:
    """{split: {cluster: [accuracy of each question]}} of a file that `main` wrote; ends where it was asked others."""
    found = json.loads(path.read_text())
    if found["bank"] != fingerprint([q for q in questions if q.split in found["splits"].split(",")]):
        sys.exit(f"{path}: answers to other questions than are asked now; run the script again for this arm")
    cluster_of = {q.id: q.cluster for q in questions}
    return {split: group((cluster_of[q], right) for q, right in part.items()) for split, part in found["each"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="first answers of a model, by question")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, default=Path("data/bank.jsonl"))
    parser.add_argument("--splits", default="test", help="separated by commas")
    parser.add_argument("--points", type=Path, help="JSONL of records with 'cluster' and 'text'")
    parser.add_argument("--recall", action="store_true", help="by the threshold that stage 2 left, the likeliest point")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the answers; 0: the likeliest")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=8, help="answers to each question")
    args = parser.parse_args()
    points = {r["cluster"]: r["text"] for r in read_lines(args.points)} if args.points else {}
    weights = b"".join(p.read_bytes() for p in sorted(Path(args.model).glob("*.safetensors")))
    questions = [q for q in load_questions(args.questions) if q.split in args.splits.split(",")]
    asked = {
        "model": args.model,
        "weights": hashlib.sha256(weights).hexdigest(),
        "points": points,
        "n": args.n,
        "splits": args.splits,
        "bank": fingerprint(questions),
    }
    if args.recall:
        asked["recall"] = threshold_of(ROOT / args.model)
    if args.temperature != 1:
        asked["temperature"] = args.temperature
    if args.out.exists():
        found = json.loads(args.out.read_text())
        if asked == {name: value for name, value in found.items() if name not in ("generated_tokens", "each")}:
            return
    reader = open_reader(args.model, 0, 0, ReaderNumber.ANSWERS, temperature=args.temperature)
    each = {
        split: ask(reader, [q for q in questions if q.split == split], points, args.n, args.recall)
        for split in args.splits.split(",")
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, json.dumps(asked | {"generated_tokens": reader.generated, "each": each}) + "\n")
    print(f"{args.model}:", ", ".join(f"{split} {sum(part.values()) / len(part):.3f}" for split, part in each.items()))


if __name__ == "__main__":
    main()
