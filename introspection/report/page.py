"""The report of runs: one HTML file with figures and every learning point, which opens from disk and loads nothing.

Text of questions, attempts and points is data: it travels as JSON in which no tag can open, the page shows it as text
only, and its policy runs no script but its own.

Inputs:  run directories, or folders of their stages; final/ weights for --words
Outputs: one HTML file, and a folder beside it with the figures as SVG and PNG
Run:     python -m introspection.report runs/preeclampsia
"""

import base64
import hashlib
import html
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import common
from common import SCRIPTS, STAGES, UserError
from introspection import prompts
from introspection.report import comparisons, curves, figures
from introspection.report.words import word_ratios
from tasks.mcq import Question, load_questions

LOGS = ("metrics", "eval", "rollouts", "library", "results")


@dataclass
class Stage:
    """One stage of a run directory, with what it has logged so far."""

    path: Path
    config: dict
    records: dict[str, list[dict]]  # by log
    table: list[dict]  # of eval.py

    @property
    def kind(self) -> str:
        return self.path.name

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"


# ---- reading -------------------------------------------------------------------------------------------------------
def read_log(path: Path) -> list[dict]:
    """Records of a JSONL log; a last line that is still being written is left out."""
    lines, records = path.read_text().split("\n") if path.exists() else [""], []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON ({error.msg})") from error
    return records


def read_stages(paths: list[Path]) -> list[Stage]:
    """The stages in run directories, in the order of the pipeline. Raises UserError where there is none."""
    stages = {}
    for path in (p.resolve() for p in paths):
        folders = (
            [path]
            if (path / "config.yaml").is_file()
            else [path / name for name in SCRIPTS if (path / name / "config.yaml").is_file()]
        )
        if not folders or folders[0].name not in SCRIPTS:
            raise UserError(f"{path}: no run; expected a folder with {', '.join(STAGES)} or another stage in it")
        for folder in folders:
            config = common.parse_yaml((folder / "config.yaml").read_text(), str(folder / "config.yaml"))
            table = folder / "table.json"
            logs = {name: read_log(folder / f"{name}.jsonl") for name in LOGS}
            if folder.name not in STAGES:
                logs["rollouts"] = []  # a rival's are no learning points
            stages[folder] = Stage(folder, config, logs, json.loads(table.read_text()) if table.exists() else [])
    return sorted(stages.values(), key=lambda stage: SCRIPTS.index(stage.kind))


def read_bank(stages: list[Stage]) -> dict[str, Question]:
    """The questions of the runs' banks by id; a bank that is gone only leaves its questions unshown."""
    questions = {}
    for name in dict.fromkeys(s.config["questions"] for s in stages if s.records["rollouts"]):
        try:
            questions |= {q.id: q for q in load_questions(common.ROOT / name)}
        except UserError as error:
            print(f"report: questions are left out: {error}", file=sys.stderr)
    return questions


# ---- figures -------------------------------------------------------------------------------------------------------
def draw(plt, stages: list[Stage], questions: dict[str, Question]) -> dict:
    """Every figure that the runs hold the data of, by name."""
    trained = [s for s in stages if s.kind == "grpo_introspect" and s.records["metrics"]]
    measured = [s for s in stages if s.kind == "eval" and s.table]
    drawn = {}
    if trained:
        groups = figures.arms(trained)
        drawn |= {"reward": curves.reward(plt, groups), "accuracy": curves.accuracy(plt, groups)}
        for i, (name, arm) in enumerate(groups.items()):
            number = f"_{i + 1}" if len(groups) > 1 else ""
            weights = tuple(f"{s.name}/final" for s in arm)
            tables = [
                s.table for s in measured if any(w.strip().endswith(weights) for w in s.config["writers"].split(","))
            ]
            drawn[f"advantage{number}"] = comparisons.advantage(plt, name, arm, tables)
            drawn[f"advantage_by_step{number}"] = curves.advantage_by_step(plt, name, arm)
            drawn[f"winners_and_losers{number}"] = curves.winners_and_losers(plt, name, arm)
            drawn[f"health{number}"] = curves.health(plt, name, arm)
    for i, s in enumerate(measured):
        if s.config["table"] in ("points", "recall"):  # of the other tables' numbers some are no accuracies
            split = "test_clusters" if s.config["table"] == "points" else "test"
            drawn[f"conditions_{i + 1}"] = comparisons.conditions(plt, s.name, s.table, split)
        if s.config["table"] == "recall":
            drawn[f"recall_{i + 1}"] = comparisons.recall_calibration(plt, s.name, s.records["results"])
    for i, (name, pairs, clusters) in enumerate(transfers(trained + measured, questions)):
        drawn[f"transfer_{i + 1}"] = comparisons.heat_map(plt, name, pairs, clusters)
    dreamt = [s for s in stages if s.kind == "dream_tta" and s.records["eval"]]
    for i, (name, arm) in enumerate(figures.arms(dreamt).items()):
        drawn[f"dreams_{i + 1}"] = comparisons.dreams(plt, name, arm)
    compared = methods(stages)
    if compared:
        drawn["rivals"] = comparisons.rivals(plt, compared)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def transfers(stages: list[Stage], questions: dict[str, Question]) -> list[tuple[str, dict, dict]]:
    """(whose, gains by (written on, read on), clusters) of each evaluation `transfer`, and of trainings on few questions."""
    found = []
    for s in stages:
        records, pairs, clusters = s.records["rollouts"], {}, {}
        if s.kind == "eval" and s.config["table"] == "transfer":
            for u in (u for u in s.records["results"] if u["reader"] == "start"):
                pairs, clusters = {}, {}
                for r in u["questions"]:
                    pairs.setdefault((r["question_id"], r["on"]), []).append(r["with"] - r["without"])
                    clusters |= {r["question_id"]: r["cluster"], r["on"]: r["on_cluster"]}
                found.append(
                    (
                        f"{s.name}: {'start' if u['writer'] == 'start' else 'trained'} writer, {u['split']}",
                        pairs,
                        clusters,
                    )
                )
        elif records and all(v["question_id"] in questions for r in records for v in r["verified_on"]):
            for r in (r for r in records if not r["leak"]):
                for v in r["verified_on"]:
                    pairs.setdefault((r["question_id"], v["question_id"]), []).append(v["acc_with"] - v["acc_without"])
                    clusters |= {r["question_id"]: r["cluster"], v["question_id"]: questions[v["question_id"]].cluster}
            if len(clusters) <= 40:
                found.append((f"{s.name}, all steps", pairs, clusters))
    return found


def methods(stages: list[Stage]) -> dict[str, list[tuple[dict, dict]]]:
    """(before, after) by question of each seed, by method and split; nothing without a rival."""
    found: dict[str, list] = {}
    rivals = [s for s in stages if s.kind not in STAGES]
    for kind in dict.fromkeys(s.kind for s in rivals):
        for name, arm in figures.arms([s for s in rivals if s.kind == kind]).items():
            for s in arm:
                first, *_, last = [e for e in s.records["eval"] if "accuracy" in e] * 2 or [{"each": {}}] * 2
                for split in first["each"]:
                    found.setdefault(f"{kind} {name} on {split}".replace("  ", " "), []).append(
                        (first["each"][split], last["each"][split])
                    )
    ours = (
        figures.arms([s for s in stages if s.kind == "grpo_introspect" and len(s.records["eval"]) > 1])
        if rivals
        else {}
    )
    for name, arm in ours.items():
        for s in arm:
            ends = [{q: without for q, (_, without) in s.records["eval"][k]["per_question"].items()} for k in (0, -1)]
            found.setdefault(f"stage 1 {name} on {s.config['eval_split']}".replace("  ", " "), []).append(tuple(ends))
    return found


def save(plt, drawn: dict, folder: Path) -> list[str]:
    """Writes each figure as SVG and PNG.

    Returns them for the page: transparent, in its text colour, with ids of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inline, bare = [], dict.fromkeys(("Date", "Creator", "Format", "Type"))
    for number, (name, figure) in enumerate(drawn.items()):
        text = io.StringIO()
        figure.savefig(folder / f"{name}.svg", facecolor="white", metadata=bare)
        figure.savefig(folder / f"{name}.png", facecolor="white", dpi=160, metadata={"Software": None})
        figure.savefig(text, format="svg", transparent=True, metadata=bare)
        plt.close(figure)
        svg = text.getvalue().partition("<svg")[2].replace(figures.INK, "currentColor")
        svg = re.sub(r'\b(id="|href="#)|url\(#', lambda m, n=number: f"{m[0]}f{n}-", svg)
        title = html.escape(" ".join(figure.get_suptitle().split()))
        inline.append(f'<figure id="{name}"><svg role="img" aria-label="{title}"{svg}</figure>')
    return inline


# ---- the page ------------------------------------------------------------------------------------------------------
def browsable(stages: list[Stage], questions: dict[str, Question]) -> dict:
    """Every rollout in columns and numbers: texts and questions stand in lists of their own, once each."""
    texts: dict[str, int] = {}
    asked: dict[str, int] = {}
    rows, runs = [], [s for s in stages if s.records["rollouts"]]

    def place(known: dict[str, int], name: str | None) -> int:
        return -1 if name is None else known.setdefault(name, len(known))

    def short(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    clusters = {}
    for k, s in enumerate(runs):
        kept = {r["id"] for r in s.records["library"]}
        for r in s.records["rollouts"]:
            clusters[r["question_id"]] = r["cluster"]
            plain = r["text"] is not None and r["completion"] == prompts.INTROSPECTION.format(point=r["text"])
            verified = [
                x
                for v in r["verified_on"]
                for x in (place(asked, v["question_id"]), v["n"], short(v["acc_with"]), short(v["acc_without"]))
            ]
            rows.append([
                k, r["step"], int(r["source"] == "winner"), place(asked, r["question_id"]), place(texts, r["text"]), place(texts, r["attempt"]),
                -1 if plain else place(texts, r["completion"]), short(figures.own_gain(r)), short(r["advantage"]),
                r["leak"] + 2 * r["meta_gaming"] + 4 * (r["text"] is None) + 8 * (r["id"] in kept), verified, [short(x) for x in r["ci95"] or []],
                short(r["advantage_same"]), short(r["advantage_transfer"]), short(r["gain_twin"]),
            ])  # fmt: skip
    shown = []
    for name in asked:
        q = questions.get(name)
        turn = q.turn + f"\nRight: {q.letter}" if q else "(not in the bank any more)"
        shown.append([name, q.cluster if q else clusters.get(name, ""), turn])
    return {"runs": [s.name for s in runs], "questions": shown, "texts": list(texts), "rows": rows}


def page(stages: list[Stage], inline: list[str], data: dict) -> str:
    """The template filled in, in one pass, so that nothing that was put in is read as a place to fill."""
    template = (Path(__file__).parent / "report.html").read_text()
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
    filled = {
        "title": html.escape(", ".join(dict.fromkeys(s.path.parent.name for s in stages))),
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "figures": "\n".join(inline)
        or "<p>No figures: matplotlib is not installed (pip install -r requirements.txt).</p>",
        "data": json.dumps(common.finite(data), separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def write(paths: list[Path], out: Path, words: int = 0) -> None:
    """Writes the report of run directories.

    Words: how many points are shown token by token (loads the first run's weights).
    """
    stages = read_stages(paths)
    questions = read_bank(stages)
    data = browsable(stages, questions) | {"words": []}
    data["stages"] = [
        {
            "name": s.name,
            "seed": s.config["seed"],
            "model": s.config["model"],
            "steps": len(s.records["metrics"]),
            "settings": s.config,
        }
        for s in stages
    ]
    if words:
        first = next((s for s in stages if s.kind == "grpo_introspect"), None)
        if first is None:
            raise UserError("--words: expected a run of stage 1 among the directories")
        data["words"] = word_ratios(first.path, first.config, first.records["rollouts"], questions, words)
    out.parent.mkdir(parents=True, exist_ok=True)
    plt, inline = figures.pyplot(), []
    if plt is None:
        print("report: no matplotlib (pip install -r requirements.txt): figures are left out", file=sys.stderr)
    else:
        inline = save(plt, draw(plt, stages, questions), out.with_name(f"{out.stem}_figures"))
    out.write_text(page(stages, inline, data), encoding="utf-8", errors="replace")
