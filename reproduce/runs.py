"""Runs whose results are lines of a committed file: a run whose line is there is not made again.

A line holds what was run, the commit that it was run at, how long it took and what it measured:
{"run": {"arm": ..., "seed": ...}, "commit": ..., "minutes": ..., ...}. Runs are processes of their own, several at a
time with --jobs; a thread each is then the environment's to say (OMP_NUM_THREADS=1).
"""

import argparse
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from common import ROOT, finite
from introspection.rundir import environment
from introspection.stats import estimate, t_quantile
from reproduce.records import read_lines, save_picture, write_table


@dataclass
class Asked:
    """The command line of a table: where its lines and its page go, and whether it is only tried out."""

    out: Path
    runs: Path  # what trained runs leave behind
    quick: bool
    jobs: int


def ask(doc: str) -> Asked:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a step or two of one seed, into runs/paper_quick")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; 0: only the page of the lines there are")
    args = parser.parse_args()
    if args.quick:
        return Asked(ROOT / "runs/paper_quick", ROOT / "runs/paper_quick", True, args.jobs)
    return Asked(ROOT / "results", ROOT / "runs/paper", False, args.jobs)


def lines_of(path: Path, runs: list[dict]) -> list[dict]:
    """The lines of these runs that are there, in the runs' order."""
    known = {json.dumps(line["run"]): line for line in read_lines(path)} if path.exists() else {}
    return [known[json.dumps(run)] for run in runs if json.dumps(run) in known]


def make_missing(asked: Asked, name: str, runs: list[dict], work: Callable[[Asked, dict], dict]) -> list[dict]:
    """Makes the runs that <out>/<name>.jsonl has no line of, appending each as it ends; the lines of all of them.

    work(asked, run): what a run measured, or an exception, which ends the command. It is a function of a module, called
    in a process of its own, so that a run's memory is its own.
    """
    path = asked.out / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():  # a line that was being written when the command was cut off
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    known = [line["run"] for line in lines_of(path, runs)]
    missing = [run for run in runs if run not in known]
    print(f"{path}: {len(known)} of {len(runs)} runs are there", flush=True)
    if missing and asked.jobs:
        with get_context("fork").Pool(asked.jobs, maxtasksperchild=1) as pool:
            for line in pool.imap_unordered(partial(timed, work, asked), missing):
                with open(path, "a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"  {line['run']}: {line['minutes']:.1f} minutes", flush=True)
    return lines_of(path, runs)


def timed(work: Callable[[Asked, dict], dict], asked: Asked, run: dict) -> dict:
    """What work(asked, run) measured, as a line."""
    started = time.perf_counter()
    measured = work(asked, run)
    minutes = round((time.perf_counter() - started) / 60, 2)
    return {"run": run, "commit": environment()["git_commit"], "minutes": minutes, **measured}


def start(program: list[str], config: str, run_dir: Path, settings: dict) -> Path:
    """Runs a script of the repository to its end, going on where it was stopped; its run directory.

    Raises RuntimeError with what it said last where it fails.
    """
    command = [sys.executable, *program, "--config", f"configs/{config}.yaml", "--run-dir", str(run_dir), "--resume"]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return run_dir


def rounded(value, digits: int = 4):
    """The value with its numbers rounded, however deep."""
    if isinstance(value, dict):
        return {key: rounded(part, digits) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part, digits) for part in value]
    return round(value, digits) if isinstance(value, float) else value


# ---- what is said of lines -----------------------------------------------------------------------------------------
def over_clusters(seeds: list[dict[str, list[float]]]) -> dict:
    """An estimate of values by cluster, one dictionary a seed, over the clusters that every seed has."""
    shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
    by_cluster = {c: [float(np.mean(seed[c])) for seed in seeds] for c in shared}
    means = [{c: [values[s]] for c, values in by_cluster.items()} for s in range(len(seeds))]
    return {**estimate(means, ""), "clusters": len(shared), "seeds": len(seeds), "by_cluster": by_cluster}


def over_seeds(values: list[float]) -> dict:
    """An estimate of one value a seed: a t interval; none of a single seed."""
    centre, wide = float(np.mean(values)), float("nan")
    if len(values) > 1:
        wide = float(np.std(values, ddof=1)) / len(values) ** 0.5 * t_quantile("0.975", len(values) - 1)
    return {"mean": centre, "low": centre - wide, "high": centre + wide, "by_seed": [float(v) for v in values]}


def less(seeds: list[dict[str, list[float]]], others: list[dict[str, list[float]]]) -> list[dict[str, list[float]]]:
    """Cluster means of seeds less those of others, seed by seed, where both have the cluster."""
    pairs = zip(seeds, others, strict=True)
    return [{c: [float(np.mean(a[c]) - np.mean(b[c]))] for c in a if c in b} for a, b in pairs]


def publish(asked: Asked, name: str, lines: list[dict], records: dict, blocks: list[str | list[str]], draw) -> None:
    """A table's records, its page and its picture. blocks: the title, then paragraphs and lines of tables."""
    commits = sorted({line["commit"][:7] for line in lines if line["commit"]})
    last = f"Run at commit {', '.join(commits)}. `python -m reproduce.{name}` rebuilds it."
    text = [block if isinstance(block, list) else textwrap.wrap(block, 116) for block in [*blocks, last]]
    write_table(asked.out, name, finite(records), "\n\n".join("\n".join(part) for part in text))
    save_picture(asked.out / f"{name}.svg", draw, records)
