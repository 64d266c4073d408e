"""T12 on new clusters: what is learned from k exchanges of each of 12 clusters that nothing was trained on.

    python -m reproduce.few [--jobs 2] [--quick]      # results/few.jsonl, .json, .md, .svg
    python -m reproduce.few --tune [--jobs 2]         # results/few_tuning.jsonl: what the settings below were chosen by

Whoever learns from an exchange has one question, one right answer and one explanation, and no more: no twins. The
exchanges are the first k of the same 32 for every k. Settings, steps among them, were frozen on 12 other clusters (3 of
split val, 9 of train), one seed, then run once on clusters of test_clusters: exchanges and questions of another seed of
the world than anything before. Steps of a method end where accuracy on those 12 is best and the canary has fallen by at
most CANARY.
"""

import random
import sys
import time
from pathlib import Path

from common import ReaderNumber
from introspection import library
from introspection.stats import mean
from organism.rules import findings_of, load_clusters
from organism.world import bank, draw_balanced, question_text, record
from reproduce.answers import ask as ask_bank
from reproduce.answers import open_reader
from reproduce.records import group, read_lines, write_lines
from reproduce.runs import Asked, ask, make_missing, rounded, start
from tasks.bank import load_questions

MOST = 32
TUNED_ON = [
    *("gout-A", "sodium-A", "lupus-B"),
    *("diabetes-A", "anaemia-A", "arrhythmia-A", "kidney-A", "asthma-A"),
    *("meningitis-B", "appendix-B", "clot-B", "heart-B"),
]  # as many of types A and B as test_clusters has
WORLD = {"tune": 7, "test": 20261130}  # seed of exchanges and questions


def few(k: int, part: str) -> list[dict]:
    """A bank: k exchanges of each cluster as `train`, new questions of them as `test`, the canary.

    Questions of the bank's other train clusters, which nobody is taught, are split `val`: a dream may replay them.
    """
    clusters, published = load_clusters(), bank(load_clusters())
    asked = bank(clusters, WORLD[part])
    taken, made, rng = {r["question"] for r in published + asked}, [], random.Random(WORLD[part])
    names = TUNED_ON if part == "tune" else [c.name for c in clusters.values() if c.split == "test_clusters"]
    for c in (clusters[name] for name in names):
        new = []
        while len(new) < MOST:  # balanced over the answers before they are shuffled; a small k is not balanced
            new += [v for v in draw_balanced(c, MOST, rng, findings_of(c)) if question_text(v) not in taken]
            rng.shuffle(new)
        # All are drawn, k are kept.
        records = [record(v, f"{c.name}-few-{i}", "train", rng) for i, v in enumerate(new[:MOST])]
        made += [r | {"variants": []} for r in records[:k]]
    known = {r["question"] for r in published} if part == "test" else set()
    test = [r for r in asked if r["split"] not in ("train", "composite") and r["question"] not in known]
    made += [r | {"split": "test"} for r in test if r["cluster"] in names]
    made += [r for r in test if r["split"] == "canary"]
    others = [r for r in published if r["split"] == "train" and r["cluster"] not in names]
    return made + [r | {"split": "val", "variants": []} for r in others]


def explanations(questions: list[dict]) -> list[dict]:
    """Every exchange's explanation as it stands, as records of a library."""
    empty = dict.fromkeys(library.KEYS) | {"leak": False, "meta_gaming": False, "count": 1, "verified_on": []}
    taught = [q for q in questions if q["split"] == "train"]
    return [
        empty | {"id": q["id"], "text": q["explanation"], "question_id": q["id"], "cluster": q["cluster"]}
        for q in taught
    ]


# ---- one run -------------------------------------------------------------------------------------------------------
RIVALS = {
    "grpo": ("baselines.grpo", {}),
    "sdpo": ("baselines.sdpo", {"reveal": "explanation"}),
}
# Every exchange is dreamt, not only one of a cluster.
DREAM = {"dream_questions": 1000}
EVALUATED = {"eval_splits": "test,canary", "eval_problems": 1000, "n_eval": 2, "eval_every": 20}
TRIALS: dict[str, dict[str, dict]] = {
    "grpo": {
        "4e-4": {"lr": 4e-4, "steps": 320},
        "2e-4": {"lr": 2e-4, "steps": 320},
    },
    "sdpo": {
        "4e-4": {"lr": 4e-4, "steps": 160},
        "2e-4": {"lr": 2e-4, "steps": 240},
    },
    "explanations": {
        "replay 0.15": {"steps": 360, "replay": 0.15},
        "replay 0": {"steps": 360},
        "twice as many variants": {"steps": 360, "replay": 0.15, "variants": 2},
        "kl 0.03": {"steps": 360, "replay": 0.15, "kl_coef": 0.03},
    },
}


def bank_of(asked: Asked, run: dict) -> Path:
    """The bank of a run, written where it is not there."""
    part = "tune" if "setting" in run else "test"
    path = asked.runs / f"few-{part}-{run['k']}.jsonl"
    if not path.exists():
        write_lines(path, few(run["k"], part))
    return path


def measured(model: Path | str, asked: Asked, path: Path, points: dict[str, str]) -> dict:
    """Accuracy of a model's first answers to a bank's questions: {split: {cluster: [of each question]}}."""
    reader, each = open_reader(str(model), 0, 0, ReaderNumber.ANSWERS), {}
    questions = load_questions(path)
    for split in ("test", "canary"):
        part = [q for q in questions if q.split == split]
        accuracies = ask_bank(reader, part, points, 1 if asked.quick else 4)
        each[split] = group((q.cluster, accuracies[q.id]) for q in part)
    return {"each": each}


def curve(stage: Path) -> list[dict]:
    """What a run's own evaluations said: accuracy on new questions and on the canary, by step."""
    found = []
    for r in read_lines(stage / "eval.jsonl"):
        test = r["each"].get("target", r["each"].get("test"))
        canary = r["each"]["canary"] | r["each"].get("canary_stop", {})
        found.append({"step": r["step"], "test": mean(test.values()), "canary": mean(canary.values())})
    return found


def train(asked: Asked, run: dict, program: list[str], settings: dict) -> dict:
    """A rival or a dream on its bank: what it cost, and what its weights answer, or its curve where it is tuned."""
    path, home = bank_of(asked, run), asked.runs / "few" / "-".join(str(value) for value in run.values())
    shared = {"shared.seed": run.get("seed", 0), "shared.questions": path}
    began = time.perf_counter()
    start(program, "bank", home, shared | settings | ({"steps": 2} if asked.quick else {}))
    seconds = round(time.perf_counter() - began)
    (stage,) = (final.parent for final in home.glob("*/final"))
    last = read_lines(stage / "metrics.jsonl")[-1]
    made = {"seconds": seconds, **{name: last[name] for name in ("step", "generated_tokens", "trained_tokens")}}
    return made | ({"curve": curve(stage)} if "setting" in run else measured(stage / "final", asked, path, {}))


def work(asked: Asked, run: dict) -> dict:
    """A line: the arms that a run gives."""
    method, path = run["method"], bank_of(asked, run)
    settings = TRIALS[method][run["setting"]]
    if method in RIVALS:
        module, own = RIVALS[method]
        return rounded({"arms": {method: train(asked, run, ["-m", module], EVALUATED | own | settings)}})
    texts = path.with_name(f"{path.stem}-explanations.jsonl")
    if not texts.exists():
        write_lines(texts, explanations(read_lines(path)))
    seen = {"eval_questions": 1000, "n_eval": 2, "eval_every": 40, "stop_drop": 1, "library": texts}
    settings = DREAM | seen | settings | {"variants": settings.get("variants", 1) * max(6, 48 // run["k"])}
    return rounded({"arms": {method: train(asked, run, ["dream_tta.py"], settings)}})


def main() -> None:
    tune = "--tune" in sys.argv
    if tune:
        sys.argv.remove("--tune")
    asked = ask(__doc__)
    if tune:
        runs = [{"k": k, "method": m, "setting": s} for m in TRIALS for s in TRIALS[m] for k in (1, 4, 16)]
        make_missing(asked, "few_tuning", runs, work)


if __name__ == "__main__":
    main()
