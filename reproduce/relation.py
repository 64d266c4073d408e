"""The paper's relation table, measured (table T17): results/relation.md and relation.json.

    python -m reproduce.relation runs results     # after recall.sh, points.sh and rivals.sh; reads logs only

What each method turns an exchange into, how much shorter that is, what it is worth on other questions, whether it
stands for the exchange (ours: agreement of the answers given point and exchange, and of those given two exchanges),
and how many tokens its loss sees for each that it samples (more than one: samples are trained again). An exchange
is question, answer and feedback; its artefact takes the place of the last two turns.
"""

import json
import sys
from pathlib import Path

import numpy as np

from common import ROOT
from introspection import models, prompts
from introspection.chat import Chat
from reproduce.records import markdown_table, quantity, read_lines, shown_interval, write_table
from reproduce.rivals import sampled_tokens
from tasks.bank import load_questions

ARMS = {"composer": "Composer 2", "ssd": "SSD", "sdpo": "SDPO", "resd": "Resd", "dreamt": "ours"}
MODEL = "organism/weights"


def ours(runs: list[Path], chat: Chat) -> dict:
    """Tokens of exchanges and points in the last tenth of each writer's steps.

    share: of the tokens sampled in all steps, how many were trained.
    """
    bank = {q.id: q for q in load_questions(ROOT / "data/bank.jsonl")}
    exchange, points, trained, generated = [], [], 0, 0
    for run in runs:
        metrics, records = read_lines(run / "metrics.jsonl"), read_lines(run / "rollouts.jsonl")
        generated += sum(map(sampled_tokens, metrics))
        trained += sum(len(chat.content_ids(r["completion"])) + 1 for r in records if r["advantage"])
        for r in (r for r in records if r["step"] > 0.9 * metrics[-1]["step"] and r["text"]):
            q = bank[r["question_id"]]
            shown = prompts.told(q.explanation)
            told = prompts.reflection_turn(r["source"] == "winner", q.letter, q.options[q.answer], shown)
            turns = (chat.first(q.turn), chat.content_ids(r["attempt"]), chat.next([], told))
            exchange.append(sum(map(len, turns)))
            points.append(len(chat.content_ids(r["text"])))
    return {"exchange": float(np.mean(exchange)), "artefact": float(np.mean(points)), "share": trained / generated}


def theirs(runs: list[Path], chat: Chat) -> dict:
    """The same of a rival: Composer's summaries, the entries that Resd's playbook ends with; others leave no text."""
    logs = [read_lines(log) for run in runs for log in run.glob("*/metrics.jsonl")]
    row = {"share": float(np.mean([log[-1]["trained_tokens"] / log[-1]["generated_tokens"] for log in logs]))}
    books = [read_lines(book) for run in runs for book in run.glob("resd/playbook.jsonl")]
    entries = [len(chat.content_ids(entry["text"])) for book in books for entry in book]
    summaries = [m["summaries/mean_length"] for log in logs for m in log if m.get("summaries/mean_length")]
    if entries or summaries:
        row["artefact"] = float(np.mean(summaries or entries))
    return row


def collect(runs: Path, out: Path) -> list[dict]:
    """A row for each method."""
    chat, rivals = models.load_chat(MODEL), json.loads((out / "rivals.json").read_text())
    bank = {r["arm"]: r["splits"] for r in rivals}
    at = {(r["condition"], r["writer"], r["reader"]): r for r in json.loads((out / "invariance.json").read_text())}
    agreement = at["agreement, transfer", "trained", "start"]
    rows = []
    for arm, what in ARMS.items():
        found = sorted((runs / "rivals").glob(f"{arm}-[0-9]"))
        writers = sorted((runs / "flagship").glob("losers-[0-9]/grpo_introspect"))
        rows.append(
            {
                "arm": arm,
                "what": what,
                **(ours(writers, chat) if arm == "dreamt" else theirs(found, chat)),
                "seeds": len(bank[arm]["test"]["seeds"]),
                "in the weights": {split: bank[arm][split]["against start"] for split in ("test", "test_clusters")},
            }
        )
    rows[-1]["in context"] = bank["written"]["test"]["against start"]  # ours comes last
    rows[-1]["agreement"] = {name: agreement[name] for name in ("with", "without")}
    return rows


def markdown(rows: list[dict]) -> str:
    """The table, one method a line."""
    kinds = {
        "composer": "a summary, of few answers",
        "resd": "a playbook, read by the teacher alone",
        "dreamt": "a learning point",
        "ssd": "none, weights",
        "sdpo": "none, weights",
    }
    heads = [
        "method",
        "artefact",
        "tokens of an exchange -> of its artefact",
        "on new questions: artefact in context",
        "in the weights, taught clusters; others",
        "same answer as after the exchange, on other questions (two exchanges)",
        "tokens in the loss for each sampled one",
    ]
    cells = []
    for r in rows:
        artefact = kinds[r["arm"]] if "artefact" in r or r["arm"] in ("ssd", "sdpo") else "no chain was cut"
        before = f"{r['exchange']:.0f}" if "exchange" in r else "-"
        cells.append(
            [
                r["what"],
                artefact,
                f"{before} -> {r['artefact']:.0f}" if "artefact" in r else "-",
                shown_interval(r["in context"], "+.2f") if "in context" in r else "-",
                "; ".join(shown_interval(r["in the weights"][s], "+.2f") for s in ("test", "test_clusters")),
                f"{r['agreement']['with']:.2f} ({r['agreement']['without']:.2f})" if "agreement" in r else "-",
                f"{r['share']:.2f}",
            ]
        )
    return "\n".join([
        *markdown_table(heads, cells),
        f"\nThe bank, {quantity(min(r['seeds'] for r in rows), 'seed')} of each method, three writers; accuracy "
        "against the start model's, 95 % intervals over clusters and seeds. Ours: stage 1 with losers' points (tokens, "
        "share), its best point of each cluster (in context), stage 3 (weights).",
    ])  # fmt: skip


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs, out)
    write_table(out, "relation", rows, markdown(rows))
