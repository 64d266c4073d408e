"""Evaluation: what points and recalled texts are worth, and to whom, with the controls that tell memory from skill.

`table: points`. Every writer (the start model first) attempts the questions of each split, writes points, and the
points are tried on other questions of the cluster, by the start model and, for trained writers, by themselves. Beside
that:
  blind: nothing   points written without being told whether, or what, was right
  blind: swapped   points written after a wrong answer was given out as the right one
  blind: other     points from another cluster's exchange
  best of N        the start model's best point of N, chosen on questions on which it is not measured
  library          points from a file, such as data/points_ideal.jsonl
Split test measures memory too. On split test_clusters, which was never rewarded, nothing is known by heart, but a
writer may have learned a bias that pays everywhere: what it read from the exchange is 'points - blind'
(docs/reference.md, 'Evaluation'). `table: recall`. What models taught by stage 2 recall, for themselves and for the
start model, with the recall emptied or swapped, beside the best point, BM25's choice and one point of each cluster in
context. `table: transfer`. The points of each question on every question of the split.
`table: invariance`. Whether a point stands for its exchange, and how often a wrong answer comes back.

Inputs:  a question bank, the start model, folders of trained models (one per training seed of one method)
Outputs: runs/<config>/eval/ with results.jsonl (each condition, question by question), table.json, table.md,
report.html (with the writers' runs)
Run:     python eval.py --config configs/bank.yaml
"""

import json
import sys
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

import common
from common import Options, ReaderNumber, Shared, UserError, rng
from introspection import library, models, prompts, screen
from introspection.logprobs import check_scorer
from introspection.reader import Reader, make_reader
from introspection.recall import threshold_of
from introspection.report import page
from introspection.rundir import Run
from introspection.stats import cluster_means, estimate, holm, mean
from introspection.tables import invariance, points, recall, transfer
from introspection.tables.units import Cast, by_cluster, change, in_every_unit
from introspection.verdicts import spoilt_by, words_of
from tasks.bank import check_explanations, draw_in_company, load_questions
from tasks.mcq import Question
from tasks.problem import SPLITS

TABLES = {"points": points, "recall": recall, "transfer": transfer, "invariance": invariance}


@dataclass
class Config(Shared):
    table: Literal["points", "recall", "transfer", "invariance"] = "points"  # what is measured
    # folders of trained models, separated by commas: one for each training seed of one method; empty: stage 1's of this
    # run, if any
    writers: str = ""
    splits: str = "test,test_clusters"  # parts of the bank, separated by commas
    reveal: Literal["answer", "explanation", "peer"] = "answer"  # what losers see
    introspect: Literal["prompted", "optional"] = "prompted"  # how points are asked for
    correction_turns: int = 0  # how often a wrong attempt is sent back with 'try again' first, as in training
    own_reader: bool = True  # whether trained writers read their points too; otherwise only the start model does
    # folder of another model that writes and reads too, and the start model's points read by trained ones (handshake)
    foreign: str = ""
    blind: bool = True  # whether the three blind writers are measured
    best_of: int = 8  # N of the null 'best of N', 0: none
    # JSONL of points by question_id, read by the start model; table recall: what the models were taught from
    library: str = ""
    ideal: str = ""  # JSONL of ideal points, for table recall
    wrong: str = ""  # JSONL of wrong points, for table recall
    group_size: int = 4  # attempts, and points, a question
    # other questions of the cluster on which a point is tried; table recall: orders of a question's options
    n_verify: int = 4
    n_fresh: int = 4  # answers without a point on each of them
    eval_questions: int = 0  # questions a split, at most, 0: all
    temperature: float = 1.0  # of all sampling
    max_new_tokens: int = 48  # longest attempt, tokens
    max_point_tokens: int = 64  # longest learning point turn, tokens

    def check(self) -> None:
        for split in self.splits.split(","):
            if split not in SPLITS:
                raise UserError(f"eval.splits: unknown split '{split}'; expected some of {', '.join(SPLITS)}")
        self.check_numbers("eval", "group_size n_verify n_fresh max_new_tokens max_point_tokens")
        several = self.table != "recall"  # points are read on other questions of a cluster
        self.check_numbers("eval", "eval_questions", "0 (all) or at least 2", lambda n: not (several and n == 1))
        if self.table == "recall" and not (self.library and self.writers):
            raise UserError(
                "eval.writers: table recall needs models that stage 2 taught, "
                "and eval.library, the points that they were taught"
            )
        if self.table == "invariance" and self.group_size < 2:
            raise UserError(
                "eval.group_size: table invariance compares two exchanges on a question; "
                f"expected at least 2, got {self.group_size}"
            )
        if self.correction_turns and self.table != "points":
            raise UserError(f"eval.correction_turns: table points only, not table {self.table}")
        if self.correction_turns and self.blind:
            raise UserError("eval.blind: 'try again' tells a writer that it was wrong; expected blind: false")
        if self.answers == "scored" and self.table == "invariance":
            raise UserError("shared.answers: table invariance compares turns that were sampled; expected sampled")
        if self.table == "invariance" and self.temperature == 0:
            raise UserError("eval.temperature: table invariance compares distributions; expected a number above 0")
        if self.foreign and self.table != "points":
            raise UserError(
                f"eval.foreign: another model writes and reads in table points only, not in table {self.table}"
            )


# ---- tables --------------------------------------------------------------------------------------------------------
def table(cfg: Config, units: list[dict]) -> list[dict]:
    """Rows of the table: each condition pooled over training seeds, trained writers also against the start writer."""

    def kind(name: str) -> str:
        return {"start": "start", "own": "own", cfg.foreign: "foreign"}.get(name, "trained")

    rows, pooled = [], {}
    for u in units:
        pooled.setdefault((u["split"], kind(u["writer"]), u["condition"], kind(u["reader"])), []).append(u)
    for (split, writer, condition, reader), part in pooled.items():
        seeds = in_every_unit([u["questions"] for u in part])
        if not seeds[0]:  # such as a best of N where every question has a single other one
            continue
        gains = [by_cluster(s) for s in seeds]
        told = [by_cluster(s, lambda r: r["with"]) for s in seeds]
        alone = [by_cluster(s, lambda r: r["without"]) for s in seeds]
        row = {
            "split": split,
            "writer": writer,
            "condition": condition,
            "reader": reader,
            "seeds": len(seeds),
            "clusters": len(gains[0]),
            "questions": len(seeds[0]),
            "with": float(cluster_means(told).mean()),
            "without": float(cluster_means(alone).mean()),
            "advantage": estimate(gains, split),
            "each_seed": [float(cluster_means([g]).mean()) for g in gains],
            "by_cluster": {c: [mean(g[c]) for g in gains] for c in gains[0]},
            "generated_tokens": sum(u["generated_tokens"] for u in part),
        }
        base = pooled.get((split, "start", condition, "start" if reader == "own" else reader))
        if writer == "trained" and base:
            row["change"] = change(seeds, base[0]["questions"], split)
            if (condition, reader) == ("points", "own"):  # without a point, the trained model against the start model
                row["no_point_change"] = change(seeds, base[0]["questions"], split, lambda r: r["without"])
        if writer == "trained" and cfg.table != "transfer":
            row["p"] = row.get("change", row["advantage"])["p"]
        judged = row.get("change", row["advantage"])
        sound = {"points": mean(r.get("valid") for records in seeds for r in records)}
        row["verdict"] = words_of(judged["low"], judged["high"], row["questions"], spoilt_by(sound))
        rows.append(row)
    # One contrast of a table was named beforehand; Holm is for the others.
    primary = TABLES[cfg.table].primary(cfg)
    tested = [r for r in rows if r.get("p") is not None and (r["split"], r["condition"], r["reader"]) != primary]
    for row, p in zip(tested, holm([r["p"] for r in tested]), strict=True):
        row["p_holm"] = p
    return rows


def markdown(rows: list[dict], heads: tuple[str, str, str] = ("with", "without", "advantage")) -> str:
    """The table for people; heads: of the columns of accuracy.

    p: sign flips over clusters, of the change where there is one, else of the advantage; Holm's but for the primary.
    verdict: of the same.
    """
    compared = f"change against start ({heads[2]} of each seed)"
    columns = ["split", "writer", "condition", "reader", *heads, compared, "p", "n", "verdict"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for r in rows:
        changed = shown(r["change"]) if "change" in r else ""
        if r["writer"] == "trained":
            changed += " (" + ", ".join(f"{s:+.3f}" for s in r["each_seed"]) + ")"
        p = ""
        if r.get("p") is not None:
            p = f"{r['p_holm']:.4f}" if "p_holm" in r else f"{r['p']:.4f} (primary)"
        size = f"{r['seeds']} x {r['clusters']} clusters, {r['questions']} questions"
        accuracies = [f"{r['with']:.3f}", f"{r['without']:.3f}", shown(r["advantage"])]
        cells = [r["split"], r["writer"], r["condition"], r["reader"], *accuracies, changed, p, size, r["verdict"]]
        lines.append(line_of(cells))
        if "no_point_change" in r:
            own = r["no_point_change"]
            moved = f"{shown(own)}, one-sided 95 % bound {own['lower_bound']:+.3f}"
            said = words_of(own["low"], own["high"], r["questions"])
            without = f"{r['without']:.3f}"
            lines.append(line_of([r["split"], "trained", "no point", "own", "", without, "", moved, "", size, said]))
    return "\n".join(lines)


def shown(e: dict) -> str:
    return f"{e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}]"


def line_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# ---- main ----------------------------------------------------------------------------------------------------------
def load_data(cfg: Config) -> dict[str, list[Question]]:
    """Questions of each split, but for table recall only those with another one in their cluster.

    Raises UserError for an empty split.
    """
    questions, data = load_questions(cfg.questions, cfg.cluster, cfg.split_by), {}
    for split in cfg.splits.split(","):
        part = [q for q in questions if q.split == split]
        # A recalled point is tried on its own question, any other on others of its cluster.
        if cfg.table != "recall":
            part = draw_in_company(part, cfg.eval_questions or len(part), rng(cfg.seed))
            if len(part) < cfg.eval_questions:
                print(screen.few(len(part), cfg.eval_questions, split), file=sys.stderr)
        elif cfg.eval_questions:
            part = common.draw_some(part, cfg.eval_questions, rng(cfg.seed))
        if not part:
            company = "" if cfg.table == "recall" else " with another one in its cluster"
            raise UserError(f"eval.splits: {cfg.questions} has no '{split}' question{company}")
        if cfg.blind and cfg.table == "points" and len({q.cluster for q in part}) < 2:
            lonely = f"split '{split}' has one cluster, so no point comes from another"
            raise UserError(f"eval.blind: {lonely}; use blind: false")
        if cfg.table != "recall" and cfg.reveal == "explanation":
            check_explanations(part, f"{split} questions of {cfg.questions}", "eval")
        data[split] = part
    return data


def load_records(cfg: Config, data: dict[str, list[Question]]) -> dict[str, list[dict]]:
    """Records of the files of points, by what they are for.

    Raises UserError for a library without a point for a split.
    """
    files = {"library": cfg.library, "ideal": cfg.ideal, "wrong": cfg.wrong}
    records = {kind: library.load_library(common.ROOT / name) if name else [] for kind, name in files.items()}
    records["library"] = library.merge(records["library"])  # samples of a wording that came up often are pooled
    known = {r["question_id"] for r in records["library"]}
    for split, part in data.items():
        if cfg.library and cfg.table == "points" and not known & {q.id for q in part}:
            raise UserError(f"eval.library: {cfg.library} has no point for any question of split '{split}'")
    return records


def writers_of(cfg: Config, run: Run) -> list[str]:
    """Folders of the trained models: those that are named, else what stage 1 left in this run directory.

    Raises UserError.
    """
    trained = [name.strip() for name in cfg.writers.split(",") if name.strip()]
    if not trained and (run.stage_1 / "final").is_dir():
        trained = [str(run.stage_1 / "final")]
    for key, names in (("writers", trained), ("foreign", [cfg.foreign] if cfg.foreign else [])):
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"eval.{key}: '{name}' is named twice, and would count as two seeds")
            if not (common.ROOT / name / "config.json").is_file():
                raise UserError(f"eval.{key}: '{name}' is no model folder")
            models.check_folder(common.ROOT / name, f"eval.{key}")
    return trained


def load_reader(cfg: Config, name: str) -> Reader:
    """A model as reader and writer; answers without a point are kept, because many conditions ask for the same ones."""
    chat, policy = models.load_chat(name, cfg.system, cfg.thinking), models.load_policy(name, cfg)
    check_scorer(policy, chat)
    rationale = cfg.rationale or cfg.table == "recall"  # a turn that recalls is sampled
    more = {"kept": {}, "rationale": rationale, "fire_at": threshold_of(common.ROOT / name)}
    return make_reader(cfg, policy, chat, (cfg.seed, 0, ReaderNumber.EVALUATION), **more)


def main(cfg: Config, options: Options) -> None:
    # Which table, which writers, on which splits: all of it is looked at before any weight is loaded.
    prompts.use(cfg.prompts, common.ROOT)
    run, table_module = Run(options.run_dir, cfg, options.resume), TABLES[cfg.table]
    data = load_data(cfg)
    trained = writers_of(cfg, run)
    records = load_records(cfg, data)
    common.check_one_process("eval")
    if options.dry_run:
        sizes = ", ".join(f"{len(part)} {split}" for split, part in data.items())
        print(f"questions: {sizes}; writers: {', '.join(['start', *trained, *filter(None, [cfg.foreign])])}")
        return
    run.check()
    run.open()
    run.mend("results.jsonl")

    # What is still to be measured: every condition of the table, for every writer, on every split.
    units = run.read("results.jsonl")
    done = {(u["writer"], u["split"], u["condition"], u["reader"]) for u in units}
    writers = ["start", *trained, cfg.foreign] if cfg.foreign else ["start", *trained]
    todo = [(w, split, c) for w in writers for split in data for c in table_module.conditions(cfg, w, trained)]
    todo = [(w, split, c) for w, split, c in todo if (w, split, c.label, c.reader) not in done]
    sources = {q.id: q.question for q in load_questions(cfg.questions, split_by=cfg.split_by)}
    loaded = {"start": load_reader(cfg, cfg.model)} if todo else {}
    for name, split, condition in tqdm(todo, desc="eval", dynamic_ncols=True, disable=None):
        # Never more than three models in memory: let go of the others before another one is loaded.
        reader = name if condition.reader == "own" else condition.reader
        needed = {"start", name, reader}
        loaded = {folder: model for folder, model in loaded.items() if folder in needed}
        loaded |= {folder: load_reader(cfg, folder) for folder in needed - set(loaded)}
        for model in loaded.values():
            model.generated = 0
        cast = Cast(loaded[name], loaded[reader], loaded["start"], data[split], records, sources)
        with common.busy(f"{condition.label}, writer {name}, {split}"):
            measured = table_module.measure(cfg, condition, cast)
        units.append(
            {
                "writer": name,
                "split": split,
                "condition": condition.label,
                "reader": condition.reader,
                "generated_tokens": sum(model.generated for model in loaded.values()),
                "questions": measured,
            }
        )
        run.log("results.jsonl", units[-1])
        if run.stopped_by:
            run.leave()

    # The table, what else is said of it, and the report with the writers' trainings.
    rows = table(cfg, table_module.expand(cfg, units))
    summary, remark = table_module.remark(units)
    if summary is not None:
        common.write(run.path / "summary.json", json.dumps(summary, indent=1))
    common.write(run.path / "table.json", json.dumps(rows, indent=1))
    text = markdown(rows, table_module.HEADS) + remark
    common.write(run.path / "table.md", text + "\n")
    folders = [(common.ROOT / name).parent for name in trained]
    trainings = [f for f in folders if f.name in common.SCRIPTS and (f / "config.yaml").is_file()]
    page.write([run.path, *trainings], run.path / "report.html")
    files = "results.jsonl (each question), table.json, table.md, report.html (figures, every point)"
    print(f"{text}\n\nEverything is in {run.path}: {files}")


if __name__ == "__main__":
    common.launch(main, Config, "eval")
