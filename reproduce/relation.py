"""The paper's relation table, measured (table T17): results/relation.md and relation.json.

    python -m reproduce.relation runs results         # after recall.sh, points.sh and rivals.sh bank; reads logs only, seconds

What each method turns an exchange into, how much shorter that is, what it is worth on other questions, whether it stands for the
exchange (ours: agreement of the answers given point and exchange, and of those given two exchanges), and how many tokens its loss
sees for each that it samples (more than one: samples are trained again). An exchange is question, answer and feedback; its artefact takes the place of the last two turns.
"""

import json
import sys
from pathlib import Path

import numpy as np

from common import ROOT
from introspection import models, prompts
from introspection.chat import Chat
from reproduce.rivals import lines
from tasks.mcq import load_questions

ARMS = {"composer": "Composer 2's chain", "ssd": "SSD", "sdpo": "SDPO", "resd": "Resd", "dreamt": "ours"}
MODEL = "organism/weights"


def ours(runs: list[Path], chat: Chat) -> dict:
    """Tokens of exchanges and points in the last tenth of each writer's steps; the share of sampled tokens that were trained in all of them."""
    bank, exchange, points, trained, generated = (
        {q.id: q for q in load_questions(ROOT / "data/bank.jsonl")},
        [],
        [],
        0,
        0,
    )
    for run in runs:
        metrics, records = lines(run / "metrics.jsonl"), lines(run / "rollouts.jsonl")
        generated += sum(m["tokens_per_second"] * sum(m[f"time/rollout{i}"] for i in (1, 2, 3)) for m in metrics)
        trained += sum(len(chat.content_ids(r["completion"])) + 1 for r in records if r["advantage"])
        for r in (r for r in records if r["step"] > 0.9 * metrics[-1]["step"] and r["text"]):
            q = bank[r["question_id"]]
            told = prompts.reflection_turn(
                r["source"] == "winner", q.letter, q.options[q.answer], prompts.told(q.explanation)
            )
            asked = chat.first(q.turn)
            exchange.append(len(asked) + len(chat.content_ids(r["attempt"])) + len(chat.next([], told)))
            points.append(len(chat.content_ids(r["text"])))
    return {"exchange": float(np.mean(exchange)), "artefact": float(np.mean(points)), "share": trained / generated}


def theirs(runs: list[Path], chat: Chat) -> dict:
    """The same of a rival: Composer's summaries, the entries that Resd's playbook ends with; others leave no text."""
    logs = [lines(log) for run in runs for log in run.glob("*/metrics.jsonl")]
    row = {"share": float(np.mean([log[-1]["trained_tokens"] / log[-1]["generated_tokens"] for log in logs]))}
    entries = [
        chat.content_ids(e["text"]) for run in runs for book in run.glob("resd/playbook.jsonl") for e in lines(book)
    ]
    summaries = [m["summaries/mean_length"] for log in logs for m in log if m.get("summaries/mean_length")]
    if entries or summaries:
        row["artefact"] = float(np.mean(summaries or [len(ids) for ids in entries]))
    return row


def collect(runs: Path, out: Path) -> list[dict]:
    chat, bank = (
        models.load_chat(MODEL),
        {r["arm"]: r["splits"] for r in json.loads((out / "rivals.json").read_text()) if r["exchanges"] == "bank"},
    )
    at = {(r["condition"], r["writer"], r["reader"]): r for r in json.loads((out / "invariance.json").read_text())}
    agreement = at["agreement, transfer", "trained", "start"]
    rows = []
    for arm, what in ARMS.items():
        found = sorted((runs / "rivals/bank").glob(f"{arm}-[0-9]"))
        writers = sorted((runs / "flagship").glob("losers-[0-9]/grpo_introspect"))
        row = {"arm": arm, "what": what} | (ours(writers, chat) if arm == "dreamt" else theirs(found, chat))
        row["seeds"], row["in the weights"] = (
            len(bank[arm]["test"]["seeds"]),
            {split: bank[arm][split]["against start"] for split in ("test", "test_clusters")},
        )
        if arm == "dreamt":
            row["in context"] = bank["written"]["test"]["against start"]
            row["agreement"] = {name: agreement[name] for name in ("with", "without")}
        rows.append(row)
    return rows


def markdown(rows: list[dict]) -> str:
    kinds = {
        "composer": "a summary, used once",
        "resd": "a playbook, read by the teacher alone",
        "dreamt": "a learning point",
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
    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]

    def shown(e: dict) -> str:
        return f"{e['mean']:+.2f} [{e['low']:+.2f}, {e['high']:+.2f}]"

    for r in rows:
        size = (
            "-"
            if "artefact" not in r
            else f"{r['exchange']:.0f} -> {r['artefact']:.0f}"
            if "exchange" in r
            else f"- -> {r['artefact']:.0f}"
        )
        same = f"{r['agreement']['with']:.2f} ({r['agreement']['without']:.2f})" if "agreement" in r else "-"
        artefact = (
            kinds.get(r["arm"], "none, weights")
            if "artefact" in r or r["arm"] in ("ssd", "sdpo")
            else "no chain was cut"
        )
        cells = [
            r["what"],
            artefact,
            size,
            shown(r["in context"]) if "in context" in r else "-",
            "; ".join(shown(r["in the weights"][s]) for s in ("test", "test_clusters")),
            same,
            f"{r['share']:.2f}",
        ]
        out.append("| " + " | ".join(cells) + " |")
    seeds = min(r["seeds"] for r in rows)
    said = f"The bank, {seeds} seed{'s' * (seeds > 1)} of each method, three writers; accuracy against the start model's, 95 % intervals over clusters and seeds."
    ours_is = "Ours: stage 1 with losers' points (tokens, share), its best point of each cluster (in context), stage 3 (weights)."
    return "\n".join([*out, f"\n{said} {ours_is}"])


if __name__ == "__main__":
    runs, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = collect(runs, out)
    (out / "relation.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "relation.md").write_text(markdown(rows) + "\n")
    print(markdown(rows) + f"\n\nwrote {out}/relation.json, relation.md")
