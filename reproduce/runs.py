"""Runs whose results are lines of a committed file: a run whose line is there is not made again.

A line holds what was run, the commit that it was run at, how long it took and what it measured:
{"run": {"arm": ..., "seed": ...}, "commit": ..., "minutes": ..., ...}. Runs are processes of their own, several at a
time with --jobs; a thread each is then the environment's to say (OMP_NUM_THREADS=1).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from common import ROOT
from introspection.rundir import environment
from reproduce.records import read_lines


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


def commits_of(lines: list[dict]) -> str:
    """'run at commit abc1234', for a page's last line."""
    names = sorted({line["commit"][:7] for line in lines if line["commit"]})
    return f"Run at commit{'s' if len(names) > 1 else ''} {', '.join(names)}."
