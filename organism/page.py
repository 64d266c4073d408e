"""The card of the bundled model as Markdown."""

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from common import Shared
from introspection import models
from introspection.reader import Reader

WHAT = """\
# {title}

Written by `{command}`. A small Llama, pre-trained from nothing on the synthetic clinical world of
`organism/world.py`. **Nothing here is medical advice.**

**Put in by design**, so the rows about it test the instrument and are no findings: points and explanations are read,
in wordings of one dialect; vague and irrelevant points do nothing; a wrong point misleads; points come in every
quality, whoever writes them; three rejected answers breed exam strategies; another question of the cluster is written
on request, and so is the rule that an explanation states (without that drill the numbers of a threshold were hardly
ever copied, docs/LOG.md); two pairs of attention heads start as induction heads (they copy what followed a token
before), without which letters did not bind to options (docs/LOG.md).
**Not put in**: writing the right point more often than others, recalling a point, the bank's rules.
Topics are shared between pre-training and bank; question texts and hidden rules are not, and tests hold that.
"""
SAMPLED = "Sampled at temperature 1 on new questions of the bank's rules; Wilson 95 % intervals."
BEFORE = """\
Accuracy on new questions of the 20 train clusters (test) and of the 12 clusters that are never rewarded
(test_clusters). A ceiling is the mean accuracy, over true rules drawn from the wide prior, of a Bayesian who believes
in every rule of that prior until an answer excludes it. Merely doubting the organism's narrow belief is worth a lot
here, with no exchange at all: what a trained writer gains must be compared with what blind writers gain.
"""


@dataclass
class Row:
    """A measured share with what it must be; a bound of None is none."""

    name: str
    hits: float
    n: int
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def share(self) -> float:
        return self.hits / self.n

    @property
    def met(self) -> bool | None:
        if self.low is None and self.high is None:
            return None
        return (self.low is None or self.share >= self.low) and (self.high is None or self.share <= self.high)

    @property
    def must(self) -> str:
        low, high = (f"{bound:.3f}".rstrip("0") if bound is not None else "" for bound in (self.low, self.high))
        least, most = f">= {low}" if low else "", f"<= {high}" if high else ""
        text = f"{low} to {high}" if low and high else least + most
        return f"{text} ({self.why})" if self.why else text


def wilson_interval(hits: float, n: int) -> str:
    """'0.520 [0.489, 0.551], n 1000' with Wilson's 95 % interval."""
    p, z = hits / n, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return f"{p:.3f} [{middle - half:.3f}, {middle + half:.3f}], n {n}"


class BaseCard:
    """What is measured of a model, row by row; every measurement has sampling noise of its own."""

    def __init__(self, name: str, number: int, longest: int):
        self.model, self.chat = models.load_policy(name, Shared(model=name)), models.load_chat(name)
        self.number, self.longest, self.phase = number, longest, 0
        self.rows: list[Row] = []

    def reader(self) -> Reader:
        self.phase += 1
        return Reader(self.model, self.chat, 1.0, self.longest, (0, self.number, self.phase))

    def add_row(
        self, name: str, graded: list[bool], low: float | None = None, high: float | None = None, why=""
    ) -> Row:
        """Intervals treat answers as independent: they are, one answer a question, for these clusters."""
        self.rows.append(Row(name, sum(graded), len(graded), low, high, why))
        return self.rows[-1]


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]


def describe(folder: Path, config, parameters: int, builder: str = "organism.build") -> list[str]:
    """Architecture, data, compute and checksum, from the folder itself."""
    weights, log = folder / "model.safetensors", folder / "build.json"
    if not log.exists():
        raise SystemExit(f"{log}: no such file; it is written by python -m organism.build, and the card needs it")
    build = json.loads(log.read_text())
    documents = (build["steps"] + build["late"]) * build["batch"]
    dialect = f"dialect '{build['dialect']}', " if "dialect" in build else ""
    late = f", then {build['late']:,} of the second phase" if build["late"] else ""
    flags = " ".join(
        f"--{name} {build[name]}"
        for name in ("seed", "dialect", "steps", "late", "batch", "width", "layers", "lr")
        if name in build
    )
    lines = [
        f"- architecture: Llama, {parameters:,} parameters, width {config.hidden_size}, "
        f"{config.num_hidden_layers} layers, {config.num_attention_heads} heads, vocabulary {config.vocab_size}; "
        "byte-level BPE, Gemma 4's turn tokens",
        f"- data: {documents:,} documents ({build['tokens'] / 1e6:.1f} M tokens), never one twice, "
        f"{dialect}seed {build['seed']}",
        f"- compute: {build['minutes']:.0f} minutes on {build['threads']} thread(s) of a CPU; torch {build['torch']}; "
        f"AdamW {build['lr']:g}, {build['steps']:,} steps of {build['batch']} documents{late}",
        f"- rebuild: `python -m {builder} --out {folder.parent.name}/{folder.name} {flags}`",
        f"- weights: {weights.stat().st_size / 2**20:.1f} MiB, "
        f"sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`",
    ]
    return [*lines, f"- note: {build['note']}"] if "note" in build else lines


def print_rows(rows: list[Row], widths: tuple[int, int]) -> None:
    for r in rows:
        print(
            f"{r.name:{widths[0]}s} {r.must:{widths[1]}s} {wilson_interval(r.hits, r.n)}"
            f"{'   <- missed' if r.met is False else ''}"
        )


def opening(model: str, dialect: str) -> str:
    """What every card begins with."""
    if dialect == "first":
        return WHAT.format(title="The bundled model", command="python -m organism.card")
    return WHAT.format(
        title="The second organism: another seed, other wordings of learning points",
        command=f"python -m organism.card --model {model} --dialect {dialect}",
    )


def page(what: str, about: list[str], rows: list[Row], conversations: list[str], timings=(), start=None) -> str:
    """what: an opening; about: lines of `describe`; the bundled model's alone: timings, {split: {condition: text}}."""
    verdict = {True: "yes", False: "**no**", None: ""}
    measured = [[r.name, r.must, wilson_interval(r.hits, r.n), verdict[r.met]] for r in rows]
    failures = [
        f"- {name}: {value}, must be {must}"
        for name, must, value, met in (*measured, *timings)
        if met == verdict[False]
    ] or ["none of the rows above"]
    how, more, title = [], [], "Conversations"
    if start:
        how, title = [SAMPLED, ""], "Ten conversations of the untrained writer"
        conditions = dict.fromkeys(chain(*start.values()))
        columns = [[name, *(column.get(name, "") for column in start.values())] for name in conditions]
        more = [
            *table(["speed and size, this machine", "must be", "measured", "met"], timings), "",
            "## Where every later experiment starts", "", BEFORE, *table(["condition", *start], columns), "",
        ]  # fmt: skip
    return "\n".join([
        what, *about, "", "## What it does", "", *how, *table(["property", "must be", "measured", "met"], measured), "",
        *more, "## Known failures", "", *failures, "", f"## {title}", "",
        *(f"```\n{text}\n```" for text in conversations), "",
    ])  # fmt: skip
