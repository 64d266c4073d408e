"""Deploy and collect: a model answers a bank's train questions, and what it gets wrong is kept for stage 1 to correct.

Every question is answered n times, its options in another order each time. Each wrong answer that names an option
becomes an exchange (docs/reference.md, 'Records'); `gold` is the right letter in the order that was shown. Answers that
were cut off or name nothing are left out: nobody could say what was wrong with them. A file that is there already is
left alone.
Run: python -m reproduce.collect MODEL --questions data/bank.jsonl --out exchanges.jsonl
"""

import argparse
import sys
from pathlib import Path

from common import ReaderNumber, ReproducePhase, UserError, rng
from introspection.reader import Reader
from reproduce.answers import open_reader
from reproduce.records import write_lines
from tasks.bank import load_questions
from tasks.mcq import letter_in, same_views


def collect_exchanges(reader: Reader, questions: list, n: int) -> list[dict]:
    """An exchange for each of n answers to each question that is finished, names an option, and is wrong."""
    views = [
        view
        for i, q in enumerate(questions)
        for view in same_views(q, n, rng(*reader.key, ReproducePhase.COLLECT_VIEWS, i))
    ]
    answers = reader.sample([reader.prompt(view) for view in views], ReproducePhase.COLLECT_ANSWERS)
    exchanges = []
    for k, (view, said) in enumerate(zip(views, answers, strict=True)):
        text = reader.chat.text(said.ids)
        letter = letter_in(text, view.options)
        if said.finished and letter not in (None, view.letter):
            exchanges.append(
                {
                    "id": f"{view.id}-{k % n}",
                    "question_id": view.id,
                    "turns": [{"role": "user", "content": view.turn}, {"role": "assistant", "content": text}],
                    "gold": view.letter,
                    "final_answer": letter,
                }
            )
    return exchanges


def main() -> None:
    parser = argparse.ArgumentParser(description="wrong answers of a model, as exchanges for stage 1")
    parser.add_argument("model")
    parser.add_argument("--questions", type=Path, default=Path("data/bank.jsonl"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=4, help="answers to each question")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already: kept as it is, nothing asked")
        return
    try:
        questions = [q for q in load_questions(args.questions) if q.split == "train"]
        reader = open_reader(args.model, args.seed, 0, ReaderNumber.COLLECT)
        exchanges = collect_exchanges(reader, questions, args.n)
        if not exchanges:
            raise UserError(
                f"{args.questions}: nothing to correct in {args.n} answers to each of {len(questions)} train questions"
            )
    except UserError as error:
        print(f"collect: {error}", file=sys.stderr)
        sys.exit(2)
    write_lines(args.out, exchanges)
    print(f"{args.model}: {len(exchanges)} of {args.n * len(questions)} answers are wrong -> {args.out}")


if __name__ == "__main__":
    main()
