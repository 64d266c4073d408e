"""What reproduce/real.sh measured of a real model on a published bank: results/real.json, results/real.md.

python -m reproduce.real runs/real MODEL

Logs are kept, with each question's values by its published id, but no text of the bank. The transcript is of a question
of our own wording in the published format: attempt, feedback, point, verification, as the start model and the trained
one see and write them.
"""

import argparse
from pathlib import Path

import yaml

from common import ROOT, ReaderNumber, UserError, load_config
from grpo_introspect import Config
from introspection import models, prompts
from introspection.detectors import quoted, states_answer
from introspection.reader import make_reader
from introspection.rollouts import Point, rollout_1, rollout_2, rollout_3
from introspection.stats import mean
from introspection.verdicts import by_cluster, judge, spoilt_by
from reproduce.records import markdown_table, read_lines, write_records
from tasks.bank import load_questions
from tasks.mcq import Question

RUNS = {"medmcqa": "the paper's procedure", "medmcqa_ours": "ours"}
OF_THIS_MACHINE = ("model", "questions")  # paths
RATES = ("parse_rate", "parse_rate/answer", "leak_rate", "meta_gaming_rate", "clipped/rollout2", "entropy")
OWN = Question(
    "own-1",
    "A 30-year-old woman is short of breath and has a swollen left calf two weeks after a long flight. Her pulse is "
    "118 a minute and her chest X-ray is normal. Which investigation confirms the most likely diagnosis?",
    ("CT pulmonary angiography", "Peak flow measurement", "Serum troponin", "Bronchoscopy"),
    0,
    "Medicine",
    "train",
    "A clot from a leg vein has reached the lung. A normal X-ray does not speak against it, and contrast in the "
    "pulmonary arteries shows it.",
)  # fmt: skip


def changes_of(first: dict, last: dict) -> dict[str, str]:
    """What may be said of accuracy with points, without, and the advantage, on new questions."""
    spoilt = spoilt_by({"answers": last["parse_rate/answer"], "points": last["parse_rate"]})
    sides = {"with": lambda pair: pair[0], "without": lambda pair: pair[1], "advantage": lambda pair: pair[0] - pair[1]}
    told = {}
    for name, value in sides.items():
        each = {q: value(last["per_question"][q]) - value(pair) for q, pair in first["per_question"].items()}
        told[name] = str(judge([by_cluster(each, last["clusters"])], last["rewarded"], spoilt))
    return told


def part_of(metrics: list[dict], first: bool, name: str) -> float | None:
    """The mean of a metric over the first or last third of the steps."""
    third = max(1, len(metrics) // 3)
    return mean(m[name] for m in (metrics[:third] if first else metrics[-third:]))


def quoting(rollouts: list[dict], bank: dict[str, Question]) -> dict[str, list[float | None]]:
    """What points quote of their own question, over the first and last third of the steps: whether the gain is that of
    points that name the right option. Read with today's detectors, whatever the run flagged.
    """
    last, told = rollouts[-1]["step"], {}
    third = max(1, last // 3)
    for steps in (range(1, third + 1), range(last - third + 1, last + 1)):
        part = [(r, bank[r["question_id"]]) for r in rollouts if r["step"] in steps and r["text"]]
        named = [q.options[q.answer] in quoted(r["text"], q.options) for r, q in part]
        gains = [
            (r["advantage_same"], n) for (r, _), n in zip(part, named, strict=True) if r["advantage_same"] is not None
        ]
        found = {
            "points that leak, read again": mean(float(states_answer(r["text"], q.options)) for r, q in part),
            "points that name the right option": mean(map(float, named)),
            "advantage of these": mean(gain for gain, n in gains if n),
            "advantage of the others": mean(gain for gain, n in gains if not n),
        }
        told = {name: [*told.get(name, []), value] for name, value in found.items()}
    return told


def record_of(folder: Path, what: str) -> dict:
    """A run's settings, its log, its evaluations, and what they say."""
    metrics, evaluations = read_lines(folder / "metrics.jsonl"), read_lines(folder / "eval.jsonl")
    names = [f"introspection_advantage/{kind}" for kind in ("same", "winners", "losers")]
    names += ["accuracy/attempt", "accuracy/verify", "accuracy/fresh", *RATES]
    thirds = {name: [part_of(metrics, True, name), part_of(metrics, False, name)] for name in names}
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    bank = {q.id: q for q in load_questions(settings["questions"])}
    thirds |= quoting(read_lines(folder / "rollouts.jsonl"), bank)
    settings = {name: value for name, value in settings.items() if name not in OF_THIS_MACHINE}
    return {
        "run": folder.parent.name,
        "what": what,
        "settings": settings,
        "steps": len(metrics),
        "seconds": sum(m["time/step"] for m in metrics),
        "thirds": thirds,
        "changes": changes_of(evaluations[0], evaluations[-1]),
        "metrics": metrics,
        "evaluations": evaluations,
    }


def transcript(name: str, start: str) -> str:
    """Attempt, feedback, point and verification of one model on the question of our own wording."""
    cfg = load_config(Config, "grpo_introspect", ROOT / "configs/medmcqa_ours.yaml", [f"shared.model={start}"])
    prompts.use(cfg.prompts, ROOT)
    chat = models.load_chat(start)
    reader = make_reader(cfg, models.load_policy(name, cfg), chat, (0, 1, ReaderNumber.STEP))
    groups = rollout_1(reader, [OWN], [OWN], group_size=1, verify_on="same", n_verify=1)
    rollout_2(reader, groups, contributors="both", reveal="explanation", max_point_tokens=cfg.max_point_tokens)
    rollout_3(reader, groups, n_fresh=1, reward="sampled")
    point: Point = groups[0].points[0]
    whole = chat.tokenizer.decode(point.exchange_ids + point.completion.ids)
    answers = [chat.tokenizer.decode(v.prompt_ids + v.completion.ids) for v in point.verifications]
    return "\n\n".join(f"```text\n{text.strip()}\n```" for text in (whole, *answers))


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def page(records: list[dict], model: str, transcripts: dict[str, str]) -> str:
    """The table, the verdicts, and the exchanges."""
    heads = ["", *(f"{r['what']}, {r['steps']} steps" for r in records)]
    cells = []
    for name in records[0]["thirds"]:
        cells.append([name, *(" -> ".join(map(shown, r["thirds"][name])) for r in records)])
    ends = [(r["evaluations"][0], r["evaluations"][-1]) for r in records]
    cells.append(["canary", *(f"{shown(a['accuracy/canary'])} -> {shown(b['accuracy/canary'])}" for a, b in ends)])
    cells.append(["new questions", *(str(len(a["per_question"])) for a, _ in ends)])
    for side in ("with", "without"):
        key = f"accuracy_{side}"
        cells.append([f"new questions, {side} a point", *(f"{a[key]:.2f} -> {b[key]:.2f}" for a, b in ends)])
    lines = [
        "# A real model on a published bank",
        "",
        f"{model}, MedMCQA's dev file as published, CPU, one seed each, options read by likelihood",
        "(`answers: scored`, no rationale). First and last third of the steps on training questions; before and after",
        "on new ones. Rebuilt by `reproduce/real.sh MODEL FILE`.",
        "",
        *markdown_table(heads, cells),
        "",
    ]
    for r in records:
        lines += [f"Change on new questions, {r['what']}:", ""]
        lines += [f"- {name}: {told}" for name, told in r["changes"].items()] + [""]
    lines += ["## One whole exchange, of our own wording", ""]
    for who, text in transcripts.items():
        lines += [f"### {who}", "", text, ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="puts the runs of reproduce/real.sh together")
    parser.add_argument("runs", type=Path)
    parser.add_argument("model")
    parser.add_argument("--name", default="", help="how the model is called on the page")
    args = parser.parse_args()
    try:
        folders = {name: args.runs / name / "grpo_introspect" for name in RUNS}
        records = [record_of(folders[name], RUNS[name]) for name in RUNS if (folders[name] / "final").exists()]
        if not records:
            raise UserError(f"{args.runs}: no finished run; expected {' or '.join(RUNS)}")
        texts = {"The start model": transcript(args.model, args.model)}
        for record in records:
            final = str((folders[record["run"]] / "final").resolve())
            texts[f"After {record['what']}"] = transcript(final, args.model)
    except UserError as error:
        raise SystemExit(f"real: {error}") from error
    text = page(records, args.name or args.model, texts)
    write_records(ROOT / "results/real.json", records)
    (ROOT / "results/real.md").write_text(text)
    print(f"{text}\nwrote results/real.json, results/real.md")


if __name__ == "__main__":
    main()
