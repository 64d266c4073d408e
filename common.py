"""Plumbing without an opinion about the method: config, command line, seeds, run directory.

A stage script ends in `launch(main, Config, "stage")`. Bad input anywhere raises UserError: one line on stderr, exit 2.
"""

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import yaml

import ranks

ROOT = Path(__file__).resolve().parent
STAGES = ("grpo_introspect", "sft_recall", "dream_tta", "eval", "grpo", "reflect_retry", "ssd", "sft", "sdpo", "resd")  # sections of a config beside `shared`
LOGS = ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl", "library.jsonl", "targets.jsonl")


class UserError(Exception):
    """Bad input: its text is the one clear line for stderr (file, line or key, what was expected)."""


# ---- config --------------------------------------------------------------------------------------------------------
@dataclass
class Shared:
    """The section `shared:`, the same for every script."""

    model: str = "organism/weights"  # folder or Hugging Face name of the policy's start weights
    questions: str = "data/bank.jsonl"  # question bank, JSONL (README 'Data')
    cluster: str = ""  # keep the clusters whose name starts with this; empty: all
    seed: int = 0  # keys all sampling noise and all choices of questions
    dtype: Literal["float32", "bfloat16"] = "float32"  # weights of the policy; bfloat16 gets fp32 masters (update.py)
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    system: str = ""  # system prompt; goes in front of the first user turn where the chat template has no such role
    freeze_embeddings: bool = False  # leaves embeddings (and the tied head) as they are: 2.8 of Gemma 4 E2B's 4.6 B parameters
    lora_rank: int = 0  # trains fp32 LoRA adapters of this rank instead of the weights (needs peft), 0: all weights
    gradient_checkpointing: bool = False  # recomputes activations in the backward pass: less memory, a third slower


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-5 as text; this loader reads it as the number it is, and refuses duplicate keys."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{key.value}'", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def parse_yaml(text: str, source: str):
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # odd tags raise anything
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{source}:{line} {getattr(error, 'problem', None) or error}") from error


def read_sections(path: Path) -> dict[str, dict]:
    """The sections of a config file, laid over those of its `base:` (one level, relative to the file)."""
    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        sections = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    if not isinstance(sections, dict):
        raise UserError(f"{path}: expected sections (shared:, {', '.join(s + ':' for s in STAGES)}), got {type(sections).__name__}")
    base = sections.pop("base", None)
    for name, section in sections.items():
        if name not in ("shared", *STAGES):
            raise UserError(f"{path}: unknown section '{name}'{nearest(name, ['shared', 'base', *STAGES])}")
        if not isinstance(section, dict):
            raise UserError(f"{path}: section '{name}' must hold 'key: value' lines, got {type(section).__name__}")
    if base is None:
        return sections
    merged = read_sections(path.parent / str(base))
    for name, section in sections.items():
        merged[name] = merged.get(name, {}) | section
    return merged


def nearest(key, valid: list[str]) -> str:
    close = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(valid)}"


def coerce(value, annotation, where: str):
    """`value` as a field's type; whole numbers may stand for floats, nothing else changes type. Numbers are finite and >= 0."""
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            raise UserError(f"{where}: expected one of {', '.join(get_args(annotation))}, got {value!r}")
        return value
    if (annotation, type(value)) in ((float, int), (str, type(None))):
        value = annotation() if value is None else annotation(value)  # 'cluster:' without a value is empty text
    if type(value) is not annotation:
        hint = " (remove the quotes)" if isinstance(value, str) and re.fullmatch(r"[-+.0-9eE]+", value) else ""
        raise UserError(f"{where}: expected {annotation.__name__}, got {value!r}{hint}")
    if annotation in (int, float) and not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where}: expected a finite number of at least 0, got {value}")
    return value


def load_config(config_class, stage: str, path: Path, overrides: list[str]):
    """The stage's config: dataclass defaults, then the file (over its base), then --set."""
    sections, sources = read_sections(path), {}
    values = {(name, key): value for name, section in sections.items() for key, value in section.items()}
    for override in overrides:
        key, found, text = override.partition("=")
        if not found:
            raise UserError(f"--set {override}: expected key=value")
        name, key = ("shared", key[len("shared.") :]) if key.startswith("shared.") else (stage, key)
        values[name, key] = parse_yaml(text, f"--set {override}")
        sources[name, key] = "--set"
    shared = {f.name for f in dataclasses.fields(Shared)}
    fields = {("shared" if f.name in shared else stage, f.name): f for f in dataclasses.fields(config_class)}
    settings = {}
    for (name, key), value in values.items():
        where = f"{sources.get((name, key), path)}: {name}.{key}"
        if (name, key) in fields:
            settings[key] = coerce(value, fields[name, key].type, where)
        elif name in ("shared", stage):
            raise UserError(f"{where}: unknown key{nearest(key, [k for n, k in fields if n == name])}")
    cfg = config_class(**settings)
    try:
        cfg.check()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return cfg


def launch(main, config_class, stage: str) -> None:
    """Command line of every script; turns UserError into one line on stderr and exit 2."""
    parser = argparse.ArgumentParser(prog=f"{stage}.py")
    parser.add_argument("--config", type=Path, required=True, help="YAML file with sections 'shared' and one per script")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="override a setting (shared.key for the shared section)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<config name>")
    parser.add_argument("--dry-run", action="store_true", help="check config and data, print the plan, load no weights")
    args = parser.parse_args()
    ranks.start()
    try:
        cfg = load_config(config_class, stage, args.config, args.set)
        run_dir = (args.run_dir or ROOT / "runs" / args.config.stem) / stage
        main(cfg, Run(run_dir, cfg, args.resume), args.dry_run)
    except UserError as error:
        print(f"{stage}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


# ---- seeds ---------------------------------------------------------------------------------------------------------
def rng(*key: int) -> np.random.Generator:
    """A generator that depends on its key (seed, step, phase, ...) alone, so that a resumed run needs no replay."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


# ---- run directory -------------------------------------------------------------------------------------------------
class Run:
    """<run-dir>/<stage>/: config.yaml, env.json, the JSONL logs, checkpoint-<step>/, final/ (README 'Run directory')."""

    def __init__(self, path: Path, cfg, resume: bool):
        self.path, self.cfg, self.resume, self.stopped_by = path, cfg, resume, None
        self.final, self.stage_1 = path / "final", (path.parent / "grpo_introspect").resolve()  # stage 1's own files are what later stages read

    def check(self) -> None:
        """Raises UserError on a used directory without --resume, on one of another config, and where none can be made."""
        try:
            used = self.path.exists() and any(self.path.iterdir())
        except OSError as error:
            raise UserError(f"--run-dir {self.path}: {error.strerror}") from error
        if used and not self.resume:
            raise UserError(f"{self.path} is not empty: go on with --resume, choose another --run-dir, or delete it")
        if used and (self.path / "config.yaml").exists():
            before = yaml.safe_load((self.path / "config.yaml").read_text())
            changed = [key for key, value in dataclasses.asdict(self.cfg).items() if key != "expect" and before.get(key, value) != value]
            if changed:
                raise UserError(f"{self.path / 'config.yaml'}: --resume needs the settings of the first start; changed: {', '.join(changed)}")

    def open(self) -> None:
        """Creates the directory, once everything that can be wrong with the input has been looked at (by all ranks)."""
        ranks.wait()
        try:
            if ranks.first():
                self.path.mkdir(parents=True, exist_ok=True)
                write(self.path / "config.yaml", yaml.safe_dump(dataclasses.asdict(self.cfg), sort_keys=False))
                write(self.path / "env.json", json.dumps(environment(), indent=1))
        except OSError as error:
            raise UserError(f"--run-dir {self.path}: {error.strerror}") from error
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number, _frame) -> None:
        self.stopped_by = number  # the step loop checkpoints at its next safe point and calls `leave`

    def leave(self) -> None:
        print(f"stopped by signal {self.stopped_by}; go on with --resume", file=sys.stderr)
        sys.exit(128 + self.stopped_by)

    def log(self, name: str, record: dict) -> None:
        """Appends one line to a JSONL log; numbers that are not finite become null. Only the first rank writes."""
        if not ranks.first():
            return
        with open(self.path / name, "a") as file:
            file.write(json.dumps(finite(record), allow_nan=False) + "\n")

    def mend(self, name: str) -> None:
        """Cuts a log whose writer was killed in the middle of a line back to its last whole line."""
        path = self.path / name
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def read(self, name: str) -> list[dict]:
        path = self.path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def rewind(self) -> tuple[int, Path | None]:
        """(step, folder) of the newest checkpoint, (0, None) without one; cuts the logs back to what it had written."""
        found = self._checkpoints()
        step = max(found, default=0)
        lengths = json.loads((found[step] / "logs.json").read_text()) if found else {}
        for name in LOGS if ranks.first() else ():
            if (self.path / name).exists():
                os.truncate(self.path / name, lengths.get(name, 0))
        ranks.wait()
        return step, found.get(step)

    def save(self, name: str, write_files) -> None:
        """Writes a folder whole or not at all: `write_files(folder)` into <name>.tmp, synced, then renamed."""
        if ranks.first():
            self._save(name, write_files)
        ranks.wait()  # nobody leaves while the first rank still writes

    def _save(self, name: str, write_files) -> None:
        temporary = self.path / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_files(temporary)
        lengths = {log: (self.path / log).stat().st_size for log in LOGS if (self.path / log).exists()}
        write(temporary / "logs.json", json.dumps(lengths))
        for file in [*(f for f in temporary.rglob("*") if f.is_file()), *(self.path / log for log in lengths)]:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(self.path / name, ignore_errors=True)
        temporary.rename(self.path / name)
        checkpoints = self._checkpoints()
        for step in sorted(checkpoints)[:-2]:
            shutil.rmtree(checkpoints[step])

    def _checkpoints(self) -> dict[int, Path]:
        """Complete checkpoints by step; a folder still called .tmp was never finished."""
        numbered = {path.name.partition("-")[2]: path for path in self.path.glob("checkpoint-*")}
        return {int(step): path for step, path in numbered.items() if step.isdigit()}


def finite(value):
    """`value` with every number that is not finite, however deep, replaced by None."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def environment() -> dict:
    """Versions, git commit with uncommitted changes, device: what a reader needs to judge a run."""
    import torch
    import transformers

    def git(*command: str) -> str | None:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__,
        "numpy": np.__version__, "git_commit": git("rev-parse", "HEAD"), "git_diff": git("diff", "HEAD"), "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "command": sys.argv,
    }  # fmt: skip
