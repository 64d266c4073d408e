"""The report of runs: one HTML file with figures and every learning point, which opens from disk and loads nothing.

Text of questions, attempts and points is data: it travels as JSON in which no tag can open, the page shows it as text
only, and its policy runs no script but its own.

Inputs:  run directories, or folders of their stages; final/ weights for --words
Outputs: one HTML file, and a folder beside it with the figures as SVG and PNG
Run:     python -m introspection.report runs/preeclampsia
"""

import base64
import datetime
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
from introspection import prompts, screen
from introspection.report import comparisons, curves, figures
from introspection.report.words import word_ratios
from tasks.bank import load_questions
from tasks.mcq import Question

LOGS = ("metrics", "eval", "rollouts", "library", "results")


@dataclass
class Stage:
    """One stage of a run directory, with what it has logged so far."""

    path: Path
    kind: str  # its script
    name: str  # of run and script
    config: dict
    records: dict[str, list[dict]]  # by log
    table: list[dict]  # of eval.py


# ---- reading -------------------------------------------------------------------------------------------------------
def read_log(path: Path) -> list[dict]:
    """Records of a JSONL log; a last line that is still being written is left out."""
    lines = path.read_text().split("\n") if path.exists() else []
    records = []
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
        inside = [path / name for name in SCRIPTS if (path / name / "config.yaml").is_file()]
        folders = [path] if (path / "config.yaml").is_file() else inside
        if not folders or folders[0].name not in SCRIPTS:
            raise UserError(f"{path}: no run; expected a folder with {', '.join(STAGES)} or another stage in it")
        for folder in folders:
            config = common.parse_yaml((folder / "config.yaml").read_text(), str(folder / "config.yaml"))
            table = json.loads((folder / "table.json").read_text()) if (folder / "table.json").exists() else []
            logs = {name: read_log(folder / f"{name}.jsonl") for name in LOGS}
            if folder.name not in STAGES:
                logs["rollouts"] = []  # a rival's are no learning points
            stages[folder] = Stage(folder, folder.name, f"{folder.parent.name}/{folder.name}", config, logs, table)
    return sorted(stages.values(), key=lambda stage: SCRIPTS.index(stage.kind))


def read_bank(stages: list[Stage]) -> dict[str, Question]:
    """The questions of the runs' banks by id; a bank that is gone only leaves its questions unshown."""
    questions = {}
    banks = [(s.config["questions"], s.config.get("split_by", "hash")) for s in stages if s.records["rollouts"]]
    for names, split_by in dict.fromkeys(banks):
        try:
            questions |= {q.id: q for q in load_questions(names, split_by=split_by)}
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
            tables = [  # what eval.py said of this arm's writers
                s.table for s in measured if any(w.strip().endswith(weights) for w in s.config["writers"].split(","))
            ]
            drawn[f"advantage{number}"] = comparisons.advantage(plt, name, arm, tables)
            drawn[f"advantage_by_step{number}"] = curves.advantage_by_step(plt, name, arm)
            drawn[f"winners_and_losers{number}"] = curves.winners_and_losers(plt, name, arm)
            drawn[f"health{number}"] = curves.health(plt, name, arm)
    taught = [s for s in stages if s.kind == "sft_recall" and s.records["metrics"]]
    for i, (name, arm) in enumerate(figures.arms(taught).items()):
        drawn[f"recall_loss_{i + 1}"] = curves.recall_loss(plt, name, arm)
    for i, s in enumerate(measured):
        if s.config["table"] in ("points", "recall"):  # of the other tables' numbers some are no accuracies
            split = "test_clusters" if s.config["table"] == "points" else "test"
            drawn[f"conditions_{i + 1}"] = comparisons.conditions(plt, s.name, s.table, split)
        if s.config.get("correction_turns"):
            drawn[f"exam_strategies_{i + 1}"] = comparisons.exam_strategies(plt, s.name, s.records["results"])
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
    """(whose points, their gains by (question written on, read on), clusters of the questions): of each evaluation
    `transfer`, and of trainings on few questions.
    """
    found = []
    for s in stages:
        is_matrix = s.kind == "eval" and s.config["table"] == "transfer"
        for unit in (u for u in s.records["results"] if is_matrix and u["reader"] == "start"):
            pairs, clusters = {}, {}
            for r in unit["questions"]:
                pairs.setdefault((r["question_id"], r["on"]), []).append(r["with"] - r["without"])
                clusters |= {r["question_id"]: r["cluster"], r["on"]: r["on_cluster"]}
            writer = "start" if unit["writer"] == "start" else "trained"  # one that was trained goes by its folder
            found.append((f"{s.name}: {writer} writer, {unit['split']}", pairs, clusters))
        rollouts, pairs, clusters = s.records["rollouts"], {}, {}
        if not rollouts or any(v["question_id"] not in questions for r in rollouts for v in r["verified_on"]):
            continue
        for r in (r for r in rollouts if not r["leak"]):
            for v in r["verified_on"]:
                read_on = v["question_id"]
                pairs.setdefault((r["question_id"], read_on), []).append(v["acc_with"] - v["acc_without"])
                clusters |= {r["question_id"]: r["cluster"], read_on: questions[read_on].cluster}
        if len(clusters) <= 40:
            found.append((f"{s.name}, all steps", pairs, clusters))
    return found


def accuracies_of(s: Stage) -> dict[str, tuple[dict, dict]]:
    """By split, accuracy without a point (before, after) by question; stage 1 evaluates its points on one split."""
    if s.kind == "grpo_introspect":
        ends = (s.records["eval"][k]["per_question"] for k in (0, -1))  # (with a point, without) by question
        before, after = ({q: without for q, (_, without) in pairs.items()} for pairs in ends)
        return {s.config["eval_split"]: (before, after)}
    each = [e["each"] for e in s.records["eval"] if "accuracy" in e]
    return {split: (each[0][split], each[-1][split]) for split in each[0]} if each else {}


def methods(stages: list[Stage]) -> dict[str, list[tuple[dict, dict]]]:
    """(before, after) by question of each seed, by method and split; nothing without a rival."""
    rivals = [s for s in stages if s.kind not in STAGES]
    ours = [s for s in stages if s.kind == "grpo_introspect" and len(s.records["eval"]) > 1 and rivals]
    found: dict[str, list[tuple[dict, dict]]] = {}
    for kind in dict.fromkeys(s.kind for s in rivals + ours):
        method = "stage 1" if kind == "grpo_introspect" else kind
        for name, arm in figures.arms([s for s in rivals + ours if s.kind == kind]).items():
            for s in arm:
                for split, ends in accuracies_of(s).items():
                    found.setdefault(f"{method} {name}".strip() + f" on {split}", []).append(ends)
    return found


def save(plt, drawn: dict, folder: Path) -> list[str]:
    """Writes each figure as SVG and PNG.

    Returns them for the page: transparent, in its text colour, with ids of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inline = []
    bare = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # None leaves them out: the same bytes every time
    for number, (name, figure) in enumerate(drawn.items()):
        text = io.StringIO()
        figure.savefig(folder / f"{name}.svg", facecolor="white", metadata=bare)
        figure.savefig(folder / f"{name}.png", facecolor="white", dpi=160, metadata={"Software": None})
        figure.savefig(text, format="svg", transparent=True, metadata=bare)
        plt.close(figure)
        svg = text.getvalue().partition("<svg")[2].replace(figures.INK, "currentColor")
        svg = re.sub(r'\b(id="|href="#)|url\(#', rf"\g<0>f{number}-", svg)
        title = html.escape(" ".join(figure.get_suptitle().split()))
        inline.append(f'<figure id="{name}"><svg role="img" aria-label="{title}"{svg}</figure>')
    return inline


# ---- the page ------------------------------------------------------------------------------------------------------
def number_of(name: str | None, known: dict[str, int]) -> int:
    """The number that stands for a name, -1 for None; a new name joins the known ones."""
    return -1 if name is None else known.setdefault(name, len(known))


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def row_of(run: int, record: dict, in_library: bool, asked: dict[str, int], texts: dict[str, int]) -> list:
    """A rollout in the columns of report.html; questions and texts are named by number, new ones are added."""
    verified = [
        value
        for v in record["verified_on"]
        for value in (number_of(v["question_id"], asked), v["n"], rounded(v["acc_with"]), rounded(v["acc_without"]))
    ]
    point = record["text"]
    only_point = point is not None and record["completion"] == prompts.INTROSPECTION.format(point=point)
    flags = ((1, record["leak"]), (2, record["meta_gaming"]), (4, point is None), (8, in_library))
    return [
        run,
        record["step"],
        int(record["source"] == "winner"),
        number_of(record["question_id"], asked),
        number_of(point, texts),
        number_of(record["attempt"], texts),
        -1 if only_point else number_of(record["completion"], texts),  # the whole turn, where it says more
        rounded(figures.own_gain(record)),
        rounded(record["advantage"]),
        sum(bit for bit, is_set in flags if is_set),
        verified,
        [rounded(bound) for bound in record["ci95"] or []],
        rounded(record["advantage_same"]),
        rounded(record["advantage_transfer"]),
        rounded(record["gain_twin"]),
    ]


def points_to_browse(stages: list[Stage], questions: dict[str, Question]) -> dict:
    """Every rollout in columns and numbers: texts and questions stand in lists of their own, once each."""
    texts: dict[str, int] = {}
    asked: dict[str, int] = {}
    clusters, rows, runs = {}, [], [s for s in stages if s.records["rollouts"]]
    for k, s in enumerate(runs):
        kept = {r["id"] for r in s.records["library"]}
        for r in s.records["rollouts"]:
            clusters[r["question_id"]] = r["cluster"]
            rows.append(row_of(k, r, r["id"] in kept, asked, texts))
    shown = []
    for name in asked:
        q = questions.get(name)
        turn = f"{q.turn}\nRight: {q.letter}" if q else "(not in the bank any more)"
        shown.append([name, q.cluster if q else clusters.get(name, ""), turn])
    return {"runs": [s.name for s in runs], "questions": shown, "texts": list(texts), "rows": rows}


# ---- results on top ------------------------------------------------------------------------------------------------
def verdicts_of(s: Stage) -> list[str]:
    """What may be said of a stage: of a training before and after, of a dream, of trained writers on each split."""
    evaluations = s.records["eval"]
    if s.kind == "grpo_introspect" and len(evaluations) > 1:
        return [line.strip() for line in screen.changes(evaluations[0], evaluations[-1])]
    if s.kind == "dream_tta" and len(evaluations) > 1:
        return [f"change without the point: {comparisons.dream_verdict([(evaluations[0], evaluations[-1])])}"]
    # Tables of earlier versions have no verdict.
    trained = [row for row in s.table if row["writer"] == "trained" and "change" in row and "verdict" in row]
    return [f"{r['split']}, {r['condition']}, {r['reader']} reader: {r['verdict']}" for r in trained]


def state_of(s: Stage) -> str:
    """Whether a stage ended, and where it stopped if it did not."""
    if s.kind == "eval":
        return "finished" if s.table else f"stopped after {len(s.records['results'])} conditions"
    steps = s.records["metrics"][-1]["step"] if s.records["metrics"] else 0
    if (s.path / "final").is_dir():
        return f"finished, {steps} steps"
    return f"stopped after step {steps} of {s.config.get('steps', '-')}, not finished"


def results(stages: list[Stage]) -> str:
    """The block on top: each stage with its state, commit, start, seconds in steps and verdicts, as rows of a table."""
    rows = []
    for s in stages:
        path = s.path / "env.json"
        env, started = {}, "-"
        if path.exists():
            env = json.loads(path.read_text())
            started = f"{datetime.datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}"
        commit = (env.get("git_commit") or "-")[:7] + (" and changes" if env.get("git_diff") else "")
        minutes = sum(m.get("time/step") or 0 for m in s.records["metrics"]) / 60
        said = "\n".join(verdicts_of(s)) or "-"
        cells = (s.name, state_of(s), commit, started, f"{minutes:.0f} min", said)
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    heads = "".join(
        f"<th>{name}</th>" for name in ("stage", "state", "commit", "started", "in steps", "what may be said")
    )
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def page(stages: list[Stage], inline: list[str], data: dict) -> str:
    """The template filled in, in one pass, so that nothing that was put in is read as a place to fill."""
    template = (Path(__file__).parent / "report.html").read_text()
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
    filled = {
        "title": html.escape(", ".join(dict.fromkeys(s.path.parent.name for s in stages))),
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "results": results(stages),
        "figures": "\n".join(inline)
        or "<p>No figures: matplotlib is not installed (pip install -r requirements.txt).</p>",
        "data": json.dumps(common.finite(data), separators=(",", ":")).replace("<", "\\u003c"),  # no tag can open
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def write(paths: list[Path], out: Path, words: int = 0) -> None:
    """Writes the report of run directories.

    words: how many points are shown token by token (loads the first run's weights).
    """
    stages = read_stages(paths)
    questions = read_bank(stages)
    data = points_to_browse(stages, questions) | {"words": []}
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
