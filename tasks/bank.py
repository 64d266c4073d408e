"""The question bank as a file: our records, rows of MedMCQA and MedQA as they are published, collected conversations.

Nothing is dropped silently: a line that cannot be used is an error with its number, or left out and counted on stderr.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from common import UserError
from introspection.prompts import LETTERS
from tasks.mcq import Exchange, Question
from tasks.problem import SPLITS, read_records


def load_questions(path: Path, cluster: str = "") -> list[Question]:
    """The bank in a JSONL file, in its order; only clusters whose name starts with `cluster`.

    Raises UserError with file and line for anything malformed: nothing is dropped silently.
    """
    questions, line_of = [], {}
    for where, record in from_published(read_records(path, "shared.questions"), path):
        question = parse_record(record, where)
        if question.id in line_of:
            raise UserError(
                f"{where}: id '{question.id}' stands on line {line_of[question.id]} already; ids must differ"
            )
        line_of[question.id] = where.rsplit(":", 1)[1]
        questions.append(question)
    if not questions:
        raise UserError(f"{path}: no questions in the file")
    kept = [q for q in questions if q.cluster.startswith(cluster) or q.split == "canary"]
    if not any(q.split != "canary" for q in kept):
        known = sorted({q.cluster for q in questions})
        raise UserError(
            f"shared.cluster: no question of a cluster that starts with '{cluster}' in {path}; "
            f"there are {', '.join(known)}"
        )
    return kept


def from_published(lines: list[tuple[str, object]], path: Path) -> list[tuple[str, object]]:
    """Our records from the rows of MedMCQA or MedQA as they are published; other lines as they are.

    Their rows have no split: a tenth of the clusters becomes test_clusters, of the other questions a tenth val and a
    fifth test, by a hash of the name. Rows with two equal or empty options cannot be asked; they are left out and
    counted on stderr.
    """
    kind = next(
        (k for k in ("cop", "answer_idx") if lines and isinstance(lines[0][1], dict) and k in lines[0][1]), None
    )
    if kind is None:
        return lines
    rows, left_out = [], []
    if kind == "cop":
        # The right option: 1 to 4 in the raw file, 0 to 3 in the hub's copy, -1 where answers are withheld.
        given = [row.get("cop") for _, row in lines if isinstance(row, dict)]
        seen = {cop if isinstance(cop, int) else "no number" for cop in given}
        if -1 in seen or not seen <= set(range(5)) or (0 in seen) == (4 in seen):
            raise UserError(
                f"{path}: 'cop' should run from 1 to 4 (raw MedMCQA) or from 0 to 3 (hub copy); "
                f"it has {sorted(map(str, seen))}"
            )
        first = 0 if 0 in seen else 1
    for number, (where, row) in enumerate(lines, start=1):
        try:
            if kind == "cop":
                options, answer = [str(row[k] or "") for k in ("opa", "opb", "opc", "opd")], LETTERS[row["cop"] - first]
                cluster = ": ".join(row[k] for k in ("subject_name", "topic_name") if row.get(k))
                name, explanation = str(row["id"]), row.get("exp")
            else:
                options, answer = [str(row["options"][letter]) for letter in sorted(row["options"])], row["answer_idx"]
                name, cluster, explanation = f"medqa-{number}", row.get("meta_info") or "medqa", None
            record = {
                "id": name,
                "question": row["question"],
                "options": options,
                "answer": answer,
                "cluster": cluster,
                "explanation": explanation,
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where}: not a {'MedMCQA' if kind == 'cop' else 'MedQA'} row like the first line ({error!r})"
            ) from error
        if len({o.strip() for o in options} - {""}) < len(options):
            left_out.append(where)
            continue
        rows.append((where, record | {"split": split_of(name, cluster)}))
    if left_out:
        print(
            f"{path}: {len(left_out)} rows with equal or empty options left out, the first is {left_out[0]}",
            file=sys.stderr,
        )
    return rows


def split_of(name: str, cluster: str) -> str:
    if crc32(cluster.encode()) % 10 == 0:
        return "test_clusters"
    return {0: "val", 1: "test", 2: "test"}.get(crc32(name.encode()) % 10, "train")


def in_company(questions: list[Question]) -> list[Question]:
    """The questions that are not the only one of their cluster."""
    count = Counter(q.cluster for q in questions)
    return [q for q in questions if count[q.cluster] > 1]


def load_exchanges(path: Path, questions: list[Question]) -> list[Exchange]:
    """Collected conversations (docs/reference.md, 'Records') about `questions`.

    Raises UserError with file and line for anything malformed.
    """
    by_id, exchanges = {q.id: q for q in questions}, []
    for where, record in read_records(path, "grpo_introspect.exchanges"):
        turns = record.get("turns") if isinstance(record, dict) else None
        if not isinstance(turns, list) or not all(
            isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns
        ):
            raise UserError(f"{where}: expected an object with 'turns', a list of objects with 'role' and 'content'")
        if not turns or [t.get("role") for t in turns] != ["user", "assistant"] * (len(turns) // 2):
            raise UserError(f"{where}: 'turns' must alternate user, assistant, and end with the assistant")
        for key in ("id", "question_id"):
            if not (isinstance(record.get(key), str) and record[key].strip()):
                raise UserError(f"{where}: '{key}' must be non-empty text, got {record.get(key)!r}")
        question = by_id.get(record["question_id"])
        if question is None:
            raise UserError(
                f"{where}: question_id {record.get('question_id')!r} is no train question that can be used "
                "(one alone in its cluster needs verify_on: same or transfer_pool: bank)"
            )
        gold, final = record.get("gold") or question.letter, record.get("final_answer")
        letters = list(LETTERS[: len(question.options)])
        if gold not in letters or final not in [*letters, None]:
            raise UserError(
                f"{where}: 'gold' and 'final_answer' must be letters from A to {letters[-1]}, "
                f"got {gold!r} and {final!r}"
            )
        if gold != question.letter and not question.movable:
            raise UserError(
                f"{where}: gold {gold!r} is not the bank's {question.letter!r}, and these options cannot be reordered"
            )
        others = [text for i, text in enumerate(question.options) if i != question.answer]
        place = letters.index(gold)  # the conversation may have shown the options in another order
        shown = (*others[:place], question.options[question.answer], *others[place:])
        exchanges.append(
            Exchange(
                record["id"],
                replace(question, options=shown, answer=place),
                tuple(t["content"] for t in turns),
                gold == final,
            )
        )
    if not exchanges:
        raise UserError(f"{path}: no exchanges in the file")
    return exchanges


def parse_record(record, where: str) -> Question:
    """One question record (docs/reference.md, 'Records'); raises UserError saying what was expected."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected an object, got {type(record).__name__}")
    for key in ("id", "question", "cluster", "split"):
        if not (isinstance(record.get(key), str) and record[key].strip()):
            raise UserError(f"{where}: '{key}' must be non-empty text, got {record.get(key)!r}")
    if record["split"] not in SPLITS:
        raise UserError(f"{where}: 'split' must be one of {', '.join(SPLITS)}, got '{record['split']}'")
    explanation = record.get("explanation")
    if not (explanation is None or isinstance(explanation, str)):
        raise UserError(f"{where}: 'explanation' must be text, got {explanation!r}")
    options, answer = parse_options(record, where)
    variants = record.get("variants") or []
    if not isinstance(variants, list) or not all(
        isinstance(v, dict) and isinstance(v.get("question"), str) for v in variants
    ):
        raise UserError(f"{where}: 'variants' must be a list of objects with 'question' and 'answer'")
    question = Question(
        record["id"], record["question"], options, answer, record["cluster"], record["split"], explanation
    )
    twins = []
    for i, variant in enumerate(variants, start=1):
        twin_options, twin_answer = parse_options({"options": list(options)} | variant, f"{where}, variant {i}")
        twins.append(
            replace(
                question,
                id=f"{question.id}~{i}",
                question=variant["question"],
                options=twin_options,
                answer=twin_answer,
            )
        )
    return replace(question, variants=tuple(twins))


def parse_options(record: dict, where: str) -> tuple[tuple[str, ...], int]:
    """(options, index of the right one)."""
    options, answer = record.get("options"), record.get("answer")
    if not isinstance(options, list) or not all(isinstance(o, str) and o.strip() for o in options):
        raise UserError(f"{where}: 'options' must be a list of non-empty texts, got {options!r}")
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"{where}: expected 2 to {len(LETTERS)} options, got {len(options)}")
    if len(set(options)) != len(options):
        raise UserError(f"{where}: two options are the same text")
    if answer is None:
        raise UserError(f"{where}: no 'answer'; expected the letter of the right option")
    letters = LETTERS[: len(options)]
    if not (isinstance(answer, str) and len(answer) == 1 and answer in letters):
        raise UserError(f"{where}: 'answer' must be a letter from {letters[0]} to {letters[-1]}, got {answer!r}")
    return tuple(options), letters.index(answer)
