"""Evaluation: what points and recalled texts are worth, and to whom, with the controls that tell memory from skill.

`table: points`. Every writer (the start model first) attempts the questions of each split, writes points, and the points are tried
on other questions of the cluster, by the start model and, for trained writers, by themselves. Beside that:
  blind: nothing   points written without being told whether, or what, was right
  blind: swapped   points written after a wrong answer was given out as the right one
  blind: other     points from another cluster's exchange
  best of N        the start model's best point of N, chosen on questions on which it is not measured
  library          points from a file, such as data/points_ideal.jsonl
Split test measures memory too. On split test_clusters, which was never rewarded, nothing is known by heart, but a writer may have
learned a bias that pays everywhere: what it read from the exchange is 'points - blind' (README 'Evaluation').
`table: recall`. What models taught by stage 2 recall, for themselves and for the start model, with the recall emptied or swapped,
beside the best point, BM25's choice and one point of each cluster in context.
`table: transfer`. The points of each question on every question of the split.
`table: invariance`. Whether a point stands for its exchange, and how often a wrong answer comes back.

Inputs:  a question bank, the start model, folders of trained models (one per training seed of one method)
Outputs: runs/<config>/eval/ with results.jsonl (each condition, question by question), table.json, table.md, report.html (with the writers' runs)
Run:     python eval.py --config configs/bank.yaml
"""

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tqdm import tqdm

import common
import library
import models
import ranks
import report
from chat import Chat
from common import Run, Shared, UserError, rng
from conditions import by_pair, label_test, matrix, writing, written_and_read
from invariance import invariance, unfolded
from measure import Reader, cluster_means, estimate, holm
from recall import auroc, given, needs, recalled, recalling
from tasks.mcq import SPLITS, Question, in_company, load_questions


@dataclass
class Config(Shared):
    table: Literal["points", "recall", "transfer", "invariance"] = "points"  # what is measured
    writers: str = ""  # folders of trained models, separated by commas: one for each training seed of one method; empty: stage 1's of this run, if any
    splits: str = "test,test_clusters"  # parts of the bank, separated by commas
    reveal: Literal["answer", "explanation", "peer"] = "answer"  # what losers see
    introspect: Literal["prompted", "optional"] = "prompted"  # how points are asked for
    own_reader: bool = True  # whether trained writers read their points too; otherwise only the start model does
    foreign: str = ""  # folder of another model that writes and reads too, and the start model's points read by trained ones (handshake)
    blind: bool = True  # whether the three blind writers are measured
    best_of: int = 8  # N of the null 'best of N', 0: none
    library: str = ""  # JSONL of points by question_id, read by the start model; table recall: what the models were taught from
    ideal: str = ""  # JSONL of ideal points, for table recall
    wrong: str = ""  # JSONL of wrong points, for table recall
    group_size: int = 4  # attempts, and points, a question
    n_verify: int = 4  # other questions of the cluster on which a point is tried; table recall: orders of a question's options
    n_fresh: int = 4  # answers without a point on each of them
    eval_questions: int = 0  # questions a split, at most, 0: all
    temperature: float = 1.0  # of all sampling
    max_new_tokens: int = 48  # longest attempt, tokens
    max_point_tokens: int = 64  # longest learning point turn, tokens

    def check(self) -> None:
        for split in self.splits.split(","):
            if split not in SPLITS:
                raise UserError(f"eval.splits: unknown split '{split}'; expected some of {', '.join(SPLITS)}")
        for name in ("group_size", "n_verify", "n_fresh", "max_new_tokens", "max_point_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"eval.{name}: expected at least 1, got {getattr(self, name)}")
        if self.table == "recall" and not (self.library and self.writers):
            raise UserError("eval.writers: table recall needs models that stage 2 taught, and eval.library, the points that they were taught")
        if self.table == "invariance" and self.group_size < 2:
            raise UserError(f"eval.group_size: table invariance compares two exchanges on a question; expected at least 2, got {self.group_size}")
        if self.table == "invariance" and self.temperature == 0:
            raise UserError("eval.temperature: table invariance compares distributions; expected a number above 0")
        if self.foreign and self.table != "points":
            raise UserError(f"eval.foreign: another model writes and reads in table points only, not in table {self.table}")


# ---- tables --------------------------------------------------------------------------------------------------------
def gain(record: dict) -> float:
    return record["with"] - record["without"]


def by_cluster(records: list[dict], value=gain) -> dict[str, list[float]]:
    clusters: dict[str, list[float]] = {}
    for record in records:
        clusters.setdefault(record["cluster"], []).append(value(record))
    return clusters


def shared(units: list[list[dict]]) -> list[list[dict]]:
    """The records of the questions (or pairs) that every unit has: conditions may leave out different ones."""
    names = set.intersection(*({(r["question_id"], r.get("on")) for r in records} for records in units))
    return [[r for r in records if (r["question_id"], r.get("on")) in names] for records in units]


def change(seeds: list[list[dict]], start: list[dict], split: str, value=gain) -> dict:
    """Trained against start, question by question."""
    *seeds, start = shared([*seeds, start])
    first = by_cluster(start, value)
    return estimate([{c: [a - b for a, b in zip(values, first[c], strict=True)] for c, values in by_cluster(s, value).items()} for s in seeds], split)


def primary(cfg: Config) -> tuple | None:
    """(split, condition, reader) of the one contrast of a table that was named beforehand; Holm is for the others."""
    if cfg.table == "points":
        return ("test_clusters", "handshake", "own") if cfg.foreign else ("test_clusters", "points", "start")
    return {"recall": ("test", "recalled", "start"), "invariance": ("test_clusters", "agreement, same", "start")}.get(cfg.table)


def table(cfg: Config, units: list[dict]) -> list[dict]:
    """Rows of the table: each condition pooled over training seeds, trained writers also against the start writer."""

    def kind(name: str) -> str:
        return {"start": "start", "own": "own", cfg.foreign: "foreign"}.get(name, "trained")

    rows, pooled = [], {}
    for u in units:
        pooled.setdefault((u["split"], kind(u["writer"]), u["condition"], kind(u["reader"])), []).append(u)
    for (split, writer, condition, reader), part in pooled.items():
        seeds = shared([u["questions"] for u in part])
        if not seeds[0]:  # such as a best of N where every question has a single other one
            continue
        columns = [[by_cluster(s, value) for s in seeds] for value in (gain, lambda r: r["with"], lambda r: r["without"])]
        row = {
            "split": split, "writer": writer, "condition": condition, "reader": reader, "seeds": len(seeds), "clusters": len(columns[0][0]),
            "questions": len(seeds[0]), "with": float(cluster_means(columns[1]).mean()), "without": float(cluster_means(columns[2]).mean()),
            "advantage": estimate(columns[0], split), "each_seed": [float(cluster_means([g]).mean()) for g in columns[0]],
            "generated_tokens": sum(u["generated_tokens"] for u in part),
        }  # fmt: skip
        base = pooled.get((split, "start", condition, "start" if reader == "own" else reader))
        if writer == "trained" and base:
            row["change"] = change(seeds, base[0]["questions"], split)
            if (condition, reader) == ("points", "own"):  # without a point, the trained model against the start model
                row["no_point_change"] = change(seeds, base[0]["questions"], split, lambda r: r["without"])
        if writer == "trained" and cfg.table != "transfer":
            row["p"] = row.get("change", row["advantage"])["p"]
        rows.append(row)
    tested = [r for r in rows if r.get("p") is not None and (r["split"], r["condition"], r["reader"]) != primary(cfg)]
    for row, p in zip(tested, holm([r["p"] for r in tested]), strict=True):
        row["p_holm"] = p
    return rows


def difference(u: dict, name: str, plus: list[list[dict]], minus: list[list[dict]]) -> dict:
    """A unit of its own for a difference of gains: `with` is what is added up, `without` what is taken off."""
    parts = shared([*plus, *minus])
    sums = [[sum(map(gain, records)) for records in zip(*group, strict=True)] for group in (parts[: len(plus)], parts[len(plus) :])]
    made = [r | {"with": a, "without": b} for r, a, b in zip(parts[0], *sums, strict=True)]
    return u | {"condition": name, "questions": made, "generated_tokens": 0}


def with_differences(units: list[dict]) -> list[dict]:
    """The units and what is compared within them, question by question.

    points - blind, points - best of N: what the exchange, and training, added. handshake: what a trained writer and its trained
    reader gain beyond what each gains with the start model. recalled - emptied: what a recaller's own words are worth to it.
    interaction: what a text recalled for a composite is worth beyond its parents, acc(recalled) - acc(i1) - acc(i2) + acc(none).
    """
    known = {(u["writer"], u["split"], u["condition"], u["reader"]): u["questions"] for u in units}
    start = {(split, condition, reader): q for (writer, split, condition, reader), q in known.items() if writer == "start"}
    added = []
    for u in (u for u in units if u["writer"] != "start"):
        split, own, who = u["split"], u["questions"], (u["writer"], u["split"])
        if (u["condition"], u["reader"]) == ("points", "start"):
            others = {c: q for (*mine, c, _), q in known.items() if tuple(mine) == who and c.startswith("blind")}
            others |= {c: q for (s, c, _), q in start.items() if s == split and c.startswith("best of")}
            added += [difference(u, f"points - {name}", [own], [q]) for name, q in others.items()]
        elif (u["condition"], u["reader"]) == ("points", "own") and (split, "points", u["writer"]) in start:
            plus, minus = [own, start[split, "points", "start"]], [known[*who, "points", "start"], start[split, "points", u["writer"]]]
            added.append(difference(u, "handshake", plus, minus))
        elif (u["condition"], u["reader"]) == ("recalled", "own"):
            added.append(difference(u, "recalled - emptied", [own], [known[*who, "recall: emptied", "own"]]))
        elif u["condition"] == "recalled" and split == "composite":
            one, two = (start[split, f"parent {k}", "start"] for k in (1, 2))
            added.append(difference(u, "interaction", [own], [one, two]))  # each gain is against no point: acc(none) comes out once
    return units + added


def recall_summary(units: list[dict]) -> list[dict]:
    """Of each split: the share of the best point's advantage that recall keeps, and how often recall fires where it should."""

    def mean(values: list) -> float | None:
        kept = [v for v in values if v is not None]
        return float(np.mean(kept)) if kept else None

    known, lines = {(u["split"], u["condition"]): u["questions"] for u in units if u["writer"] == "start"}, []
    for split in dict.fromkeys(u["split"] for u in units):
        seeds = [u["questions"] for u in units if (u["split"], u["condition"], u["reader"]) == (split, "recalled", "start")]
        best = known.get((split, "best point"), [])
        kinds = needs(best or seeds[0])  # without a best point nothing needs one
        judged = [[r for r in records if r["question_id"] in kinds] for records in seeds]
        fired = {kind: [r["fired"] for records in judged for r in records if kinds[r["question_id"]] == kind] for kind in (True, False)}
        *kept, top = shared([*seeds, best])
        gap = cluster_means([by_cluster(top)]).mean() if top else 0.0
        lines.append({
            "split": split, "needed": sum(kinds.values()), "fires_needed": mean(fired[True]), "not_needed": len(kinds) - sum(kinds.values()),
            "fires_not_needed": mean(fired[False]), "fires": mean([r["fired"] for records in seeds for r in records]),
            "auroc": mean([auroc([r["score"] for r in part], [kinds[r["question_id"]] for r in part]) for part in judged]),
            "gap_closed": float(cluster_means([by_cluster(s) for s in kept]).mean() / gap) if gap > 0.02 else None,
        })  # fmt: skip
    return lines


def recall_lines(summary: list[dict]) -> str:
    """The summary for people."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    head = "| split | recall fires | where needed | where not needed | AUROC | share of the best point's advantage, start reader |"
    lines = [head, "|" + "---|" * 6]
    for r in summary:
        needed, other = f"{shown(r['fires_needed'])} (n {r['needed']})", f"{shown(r['fires_not_needed'])} (n {r['not_needed']})"
        lines.append(f"| {r['split']} | {r['fires']:.2f} | {needed} | {other} | {shown(r['auroc'])} | {shown(r['gap_closed'])} |")
    return "\n".join(lines)


def markdown(rows: list[dict]) -> str:
    """The table for people; p: sign flips over clusters, of the change where there is one, else of the advantage; Holm's but for the primary."""

    def shown(e: dict) -> str:
        return f"{e['mean']:+.3f} [{e['low']:+.3f}, {e['high']:+.3f}]"

    heads = "with | without | advantage"
    if any(r["condition"] == "agreement, same" for r in rows):  # table invariance: beside it the ceiling, or a fresh conversation without the point
        heads = "measured | beside it | difference"
    lines = [f"| split | writer | condition | reader | {heads} | change against start ({heads.split()[-1]} of each seed) | p | n |", "|" + "---|" * 10]
    for r in rows:
        seeds = " (" + ", ".join(f"{s:+.3f}" for s in r["each_seed"]) + ")" if r["writer"] == "trained" else ""
        p = "" if r.get("p") is None else f"{r['p_holm']:.4f}" if "p_holm" in r else f"{r['p']:.4f} (primary)"
        size = f"{r['seeds']} x {r['clusters']} clusters, {r['questions']} questions"
        cells = [r["split"], r["writer"], r["condition"], r["reader"], f"{r['with']:.3f}", f"{r['without']:.3f}", shown(r["advantage"])]
        lines.append("| " + " | ".join([*cells, (shown(r["change"]) if "change" in r else "") + seeds, p, size]) + " |")
        if "no_point_change" in r:
            e = r["no_point_change"]
            moved = f"{shown(e)}, one-sided 95 % bound {e['lower_bound']:+.3f}"
            lines.append(f"| {r['split']} | trained | no point | own |  | {r['without']:.3f} |  | {moved} |  | {size} |")
    return "\n".join(lines)


def conditions(cfg: Config, writer: str, trained: list[str]) -> list[tuple[str, str]]:
    """(condition, reader) of a table for one writer."""
    if cfg.table == "points":
        return writing(cfg, writer, trained)
    if cfg.table == "recall":
        return recalling(writer)
    readers = ["start"] + ["own"] * (writer != "start" and cfg.own_reader)
    return [(name, reader) for name in (["matrix"] if cfg.table == "transfer" else ["same", "transfer", "again"]) for reader in readers]


# ---- main ----------------------------------------------------------------------------------------------------------
def load_data(cfg: Config) -> dict[str, list[Question]]:
    """Questions of each split, but for table recall only those with another one in their cluster. Raises UserError for an empty split."""
    questions, data = load_questions(common.ROOT / cfg.questions, cfg.cluster), {}
    for split in cfg.splits.split(","):
        part = [q for q in questions if q.split == split]
        if cfg.eval_questions:
            part = [part[i] for i in sorted(rng(cfg.seed).permutation(len(part))[: cfg.eval_questions])]
        if cfg.table != "recall":  # a recalled point is tried on its own question, any other one on others of its cluster
            part = in_company(part)
        if not part:
            raise UserError(f"eval.splits: {cfg.questions} has no '{split}' question" + " with another one in its cluster" * (cfg.table != "recall"))
        if cfg.blind and cfg.table == "points" and len({q.cluster for q in part}) < 2:
            raise UserError(f"eval.blind: split '{split}' has one cluster, so no point comes from another; use blind: false")
        data[split] = part
    return data


def main(cfg: Config, run: Run, dry_run: bool) -> None:
    data = load_data(cfg)
    trained = [name.strip() for name in cfg.writers.split(",") if name.strip()]
    if not trained and (run.stage_1 / "final").is_dir():
        trained = [str(run.stage_1 / "final")]
    for name in [*trained, cfg.foreign] if cfg.foreign else trained:
        if not (common.ROOT / name / "config.json").is_file():
            raise UserError(f"eval.{'foreign' if name == cfg.foreign else 'writers'}: '{name}' is no model folder")
    files = {"library": cfg.library, "ideal": cfg.ideal, "wrong": cfg.wrong}
    records = {kind: library.load_library(common.ROOT / name) if name else [] for kind, name in files.items()}
    records["library"] = library.merge(records["library"])  # samples of a wording that came up often are pooled
    known = {r["question_id"] for r in records["library"]}
    for split, part in data.items():
        if cfg.library and cfg.table == "points" and not known & {q.id for q in part}:
            raise UserError(f"eval.library: {cfg.library} has no point for any question of split '{split}'")
    if ranks.world() > 1:
        raise UserError("eval runs in one process; start it with python, not torchrun")
    if dry_run:
        sizes = ", ".join(f"{len(part)} {split}" for split, part in data.items())
        print(f"questions: {sizes}; writers: start{''.join(', ' + name for name in trained)}")
        return
    run.check()
    run.open()
    run.mend("results.jsonl")
    units = run.read("results.jsonl")
    done = {(u["writer"], u["split"], u["condition"], u["reader"]) for u in units}
    writers = ["start", *trained, *([cfg.foreign] if cfg.foreign else [])]
    todo = [(w, split, c, r) for w in writers for split in data for c, r in conditions(cfg, w, trained)]
    sources = {q.id: q.question for q in load_questions(common.ROOT / cfg.questions)}
    open_ = [unit for unit in todo if unit not in done]

    def load(name: str) -> Reader:
        tokenizer = models.load_tokenizer(name)
        chat = Chat(tokenizer, models.eos_ids(name, tokenizer), cfg.system)
        return Reader(models.load_policy(name, cfg), chat, cfg.temperature, cfg.max_new_tokens, (cfg.seed, 0, 1), kept={})

    loaded = {"start": load(cfg.model)} if open_ else {}
    for name, split, condition, who in tqdm(open_, desc="eval", dynamic_ncols=True, disable=None):
        kept = {"start", name, name if who == "own" else who}  # never more than three in memory
        loaded = {folder: model for folder, model in loaded.items() if folder in kept}  # let go before another one is loaded
        loaded |= {folder: load(folder) for folder in kept - set(loaded)}
        writer, reader, start = loaded[name], loaded[name if who == "own" else who], loaded["start"]
        for model in loaded.values():
            model.generated = 0
        if cfg.table == "points":
            measured = written_and_read(cfg, condition, writer, reader, data[split], records["library"])
        elif cfg.table == "recall":
            texts = None if condition == "recalled" else given(condition, data[split], records, sources)
            measured = recalled(cfg, writer, who == "own", start, data[split], texts)
        elif cfg.table == "transfer":
            measured = matrix(cfg, writer, reader, data[split])
        else:
            measured = invariance(cfg, condition, writer, reader, data[split])
        tokens = sum(model.generated for model in loaded.values())
        units.append({"writer": name, "split": split, "condition": condition, "reader": who, "generated_tokens": tokens, "questions": measured})
        run.log("results.jsonl", units[-1])
        if run.stopped_by:
            run.leave()
    expand = {"points": with_differences, "recall": with_differences, "transfer": by_pair, "invariance": unfolded}[cfg.table]
    rows, text = table(cfg, expand(units)), ""
    if cfg.table == "recall":
        summary = recall_summary(units)
        common.write(run.path / "summary.json", json.dumps(summary, indent=1))
        text = "\n\n" + recall_lines(summary)
    elif cfg.table == "transfer":
        for u in units:
            contrast, p = label_test(u["questions"])
            text += f"\n\n{u['writer']} on {u['split']}, read by {u['reader']}: same cluster minus other clusters {contrast:+.3f}, p {p:.4f} (permuted labels)"
    common.write(run.path / "table.json", json.dumps(rows, indent=1))
    text = markdown(rows) + text
    common.write(run.path / "table.md", text + "\n")
    trainings = [folder for folder in ((common.ROOT / name).parent for name in trained) if folder.name in common.STAGES and (folder / "config.yaml").is_file()]
    report.write([run.path, *trainings], run.path / "report.html")
    print(f"{text}\n\nEverything is in {run.path}: results.jsonl (each question), table.json, table.md, report.html (figures, every point)")


if __name__ == "__main__":
    common.launch(main, Config, "eval")
