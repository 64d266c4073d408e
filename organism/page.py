"""The card of the bundled model as Markdown."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

WHAT = """\
# {title}

Written by `{command}`. A small Llama, pre-trained from nothing on the synthetic clinical world of
`organism/world.py`. **Nothing here is medical advice.**

**Put in by design**, so the rows about it test the instrument and are no findings: points and explanations are read, in wordings
of one dialect; vague and irrelevant points do nothing; a wrong point misleads; points come in every quality, whoever writes them;
three rejected answers breed exam strategies; another question of the cluster is written on request, and so is the rule that an
explanation states (without that drill the numbers of a threshold were hardly ever copied, LOG.md); two pairs of attention heads start as induction heads (they copy what followed a token before), without which letters did not bind to options (LOG.md).
**Not put in**: writing the right point more often than others, recalling a point, the bank's rules.
Topics are shared between pre-training and bank; question texts and hidden rules are not, and tests hold that.
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
        text = f"{low} to {high}" if low and high else f">= {low}" if low else f"<= {high}" if high else ""
        return text + f" ({self.why})" * bool(self.why)


def interval(hits: float, n: int) -> str:
    """'0.520 [0.489, 0.551], n 1000' with Wilson's 95 % interval."""
    p, z = hits / n, 1.96
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5,
    )
    return f"{p:.3f} [{middle - half:.3f}, {middle + half:.3f}], n {n}"


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]


def describe(folder: Path, config, parameters: int, builder: str = "organism.build") -> list[str]:
    """Architecture, data, compute and checksum, from the folder itself."""
    weights, log = folder / "model.safetensors", folder / "build.json"
    if not log.exists():
        raise SystemExit(f"{log}: no such file; it is written by python -m organism.build, and the card needs it")
    build = json.loads(log.read_text())
    steps, dialect = build["steps"] + build["late"], f"dialect '{build['dialect']}', " if "dialect" in build else ""
    flags = [
        f"--{name} {build[name]}"
        for name in ("seed", "dialect", "steps", "late", "batch", "width", "layers", "lr")
        if name in build
    ]
    return [
        f"- architecture: Llama, {parameters:,} parameters, width {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads, vocabulary {config.vocab_size}; byte-level BPE, Gemma 4's turn tokens",
        f"- data: {steps * build['batch']:,} documents ({build['tokens'] / 1e6:.1f} M tokens), never one twice, {dialect}seed {build['seed']}",
        f"- compute: {build['minutes']:.0f} minutes on {build['threads']} thread(s) of a CPU; torch {build['torch']}; "
        f"AdamW {build['lr']:g}, {build['steps']:,} steps of {build['batch']} documents" + f", then {build['late']:,} of the second phase" * (build["late"] > 0),
        f"- rebuild: `python -m {builder} --out {folder.parent.name}/{folder.name} {' '.join(flags)}`",
        f"- weights: {weights.stat().st_size / 2**20:.1f} MiB, sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`",
        *([f"- note: {build['note']}"] if "note" in build else []),
    ]  # fmt: skip


def opening(model: str, dialect: str) -> str:
    """What every card begins with."""
    if dialect == "first":
        return WHAT.format(title="The bundled model", command="python -m organism.card")
    return WHAT.format(
        title="The second organism: another seed, other wordings of learning points",
        command=f"python -m organism.card --model {model} --dialect {dialect}",
    )


def page(
    what: str,
    about: list[str],
    rows: list[Row],
    timings: list[list[str]],
    start: dict[str, dict[str, str]],
    conversations: list[str],
) -> str:
    """what: from `opening`; about: lines of `describe`; start: {split: {condition: measured}}."""
    verdict = {True: "yes", False: "**no**", None: ""}
    failures = [f"- {r.name}: {interval(r.hits, r.n)}, must be {r.must}" for r in rows if r.met is False]
    failures += [f"- {name}: {measured}, must be {must}" for name, must, measured, met in timings if met != "yes"]
    conditions = list(dict.fromkeys(name for column in start.values() for name in column))
    return "\n".join([
        what, *about, "", "## What it does", "",
        "Sampled at temperature 1 on new questions of the bank's rules; Wilson 95 % intervals.", "",
        *table(["property", "must be", "measured", "met"], [[r.name, r.must, interval(r.hits, r.n), verdict[r.met]] for r in rows]), "",
        *table(["speed and size, this machine", "must be", "measured", "met"], timings), "",
        "## Where every later experiment starts", "",
        "Accuracy on new questions of the 20 train clusters (test) and of the 12 clusters that are never rewarded (test_clusters).",
        "A ceiling is the mean accuracy, over true rules drawn from the wide prior, of a Bayesian who believes in every rule of that prior",
        "until an answer excludes it. Merely doubting the organism's narrow belief is worth a lot here, with no exchange at all: what a trained",
        "writer gains must be compared with what blind writers gain.", "",
        *table(["condition", *start], [[name, *(start[split].get(name, "") for split in start)] for name in conditions]), "",
        "## Known failures", "", *(failures or ["none of the rows above"]), "",
        "## Ten conversations of the untrained writer", "", *(f"```\n{text}\n```" for text in conversations), "",
    ])  # fmt: skip
