"""The run directory: what guards it, its logs, its checkpoints, and how a stopped run goes on.

One process writes to a run directory at a time; a checkpoint is used only if every byte of it is the one that was
written; a run that goes on has the settings and the files that it began with.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml

from common import ROOT, UserError, finite, is_first_rank, wait_for_ranks, write

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

LOGS = tuple(f"{name}.jsonl" for name in ("metrics", "eval", "rollouts", "library", "targets", "rehearsals"))
INPUTS = ("questions", "exchanges", "library", "ideal", "wrong", "prompts")  # settings that name files
MODELS = ("model", "writers", "foreign")  # settings that name folders of weights
BLOCKS, BLOCK = 64, 2**16  # of each file of weights that are looked at; bytes of one
HELD: dict = {}  # the open lock of each directory that this process writes to
MAY_GROW = ("steps",)  # settings that a run may go on with a larger value of


class Run:
    """<run-dir>/<script>/: config.yaml, inputs.json, env.json, the JSONL logs, checkpoint-<step>/, final/.

    docs/reference.md, 'Run directory', says what each holds.
    """

    def __init__(self, path: Path, cfg, resume: bool):
        self.path, self.cfg, self.resume, self.stopped_by = path, cfg, resume, None
        self.final, self.grown = path / "final", False
        self.stage_1 = (path.parent / "grpo_introspect").resolve()  # stage 1's own files are what later stages read

    @property
    def finished(self) -> bool:
        """Whether --resume finds nothing left to do."""
        return self.resume and self.final.exists() and not self.grown

    # ---- who may write here ------------------------------------------------------------------------------------------
    def check(self) -> None:
        """Raises UserError on a used directory without --resume, on one that another process writes to, on one of
        another config or of other files, and where none can be made.
        """
        try:
            used = self.path.exists() and any(entry.name != "lock" for entry in self.path.iterdir())
        except OSError as error:
            raise UserError(f"--run-dir {self.path}: {error.strerror}") from error
        if used:
            self._take_lock()
        if used and not self.resume:
            raise UserError(f"{self.path} is not empty: go on with --resume, choose another --run-dir, or delete it")
        if used:
            self._compare_settings()
            self._compare_inputs()

    def _take_lock(self) -> None:
        """Holds the directory until this process ends, however it ends; whoever comes second is told who holds it."""
        place = (os.getpid(), self.path.resolve())
        if place in HELD or fcntl is None or not is_first_rank():
            return
        with told_of_files(self.path):
            file = open(self.path / "lock", "a+")  # noqa: SIM115 (held for the life of the process)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(f"{self.path} is being written by {holder}; wait for it or choose another --run-dir") from (
                error
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        HELD[place] = file

    def _compare_settings(self) -> None:
        where = self.path / "config.yaml"
        try:
            before = yaml.safe_load(where.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, FileNotFoundError):
            before = None
        if not isinstance(before, dict):
            raise UserError(
                f"{where}: missing, empty or damaged, so nothing says what this run was; delete {self.path}"
            )
        now = dataclasses.asdict(self.cfg)
        # A setting that is younger than the run had its default then.
        before = {f.name: f.default for f in dataclasses.fields(self.cfg)} | before
        changed = [key for key, value in now.items() if key != "expect" and before[key] != value]
        more = [k for k in changed if k in MAY_GROW and isinstance(before[k], int) and now[k] > before[k]]
        self.grown, changed = bool(more), [key for key in changed if key not in more]
        if changed:
            raise UserError(f"{where}: --resume needs the settings of the first start; changed: {', '.join(changed)}")

    def _compare_inputs(self) -> None:
        path = self.path / "inputs.json"
        before = read_json(path) if path.exists() else {}
        if before is None:
            raise UserError(f"{path}: damaged, so nothing says which files this run began with; delete {self.path}")
        now = inputs_of(self.cfg, self.stage_1)
        for name, known in before.items():
            if now.get(name, known) != known:
                raise UserError(f"{name} is not what this run began with ({path}); choose another --run-dir")

    def open(self) -> None:
        """Creates the directory, once everything that can be wrong with the input has been looked at (by all ranks)."""
        wait_for_ranks()
        with told_of_files(self.path):
            if is_first_rank():
                self.path.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                if self.grown:  # it is not finished any more, and what it ended with is its last checkpoint
                    shutil.rmtree(self.final, ignore_errors=True)
                write(self.path / "config.yaml", yaml.safe_dump(dataclasses.asdict(self.cfg), sort_keys=False))
                write(self.path / "inputs.json", json.dumps(inputs_of(self.cfg, self.stage_1), indent=1))
                write(self.path / "env.json", json.dumps(environment(), indent=1))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number, _frame) -> None:
        """The step loop checkpoints at its next safe point and calls `leave`; a second signal does not wait for it.

        Every file is written whole or not at all, so leaving at once loses no more than what came after a checkpoint.
        """
        if self.stopped_by:
            os.write(2, b"stopped; go on with --resume\n")
            os._exit(128 + number)
        self.stopped_by = number
        os.write(2, b"\nstopping after this phase; again to stop now\n")

    def leave(self) -> None:
        print(f"stopped by signal {self.stopped_by}; go on with --resume", file=sys.stderr)
        sys.exit(128 + self.stopped_by)

    # ---- logs --------------------------------------------------------------------------------------------------------
    def log(self, name: str, record: dict) -> None:
        """Appends one line to a JSONL log; numbers that are not finite become null. Only the first rank writes."""
        if is_first_rank():
            with told_of_files(self.path), open(self.path / name, "a") as file:
                file.write(json.dumps(finite(record), allow_nan=False) + "\n")
        if self.stopped_by and name == "eval.jsonl" and 0 in (record.get("step"), record.get("epoch")):
            self.leave()  # before the first step there is nothing to save

    def mend(self, name: str) -> None:
        """Cuts a log whose writer was killed in the middle of a line back to its last whole line."""
        path = self.path / name
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def read(self, name: str) -> list[dict]:
        path = self.path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # ---- checkpoints -------------------------------------------------------------------------------------------------
    def rewind(self) -> tuple[int, Path | None]:
        """(step, folder) of the newest whole checkpoint, (0, None) where there never was one; cuts the logs back to
        what it had written. Raises UserError where all are damaged, or a log has lost what it had written.
        """
        found = self._checkpoints()
        whole = [step for step in sorted(found, reverse=True) if self._is_whole(found[step])]
        if found and not whole:
            raise UserError(f"{self.path}: no checkpoint is whole; delete it to start again")
        step = whole[0] if whole else 0
        lengths = json.loads((found[step] / "logs.json").read_text()) if whole else {}
        for name in LOGS if is_first_rank() else ():
            path, length = self.path / name, lengths.get(name, 0)
            if (path.stat().st_size if path.exists() else 0) < length:
                raise UserError(f"{path}: shorter than when {found[step].name} was written; lines are lost")
            if path.exists():
                os.truncate(path, length)
        wait_for_ranks()
        return step, found.get(step)

    def save(self, name: str, write_files) -> None:
        """Writes a folder whole or not at all: `write_files(folder)` into <name>.tmp, synced, then renamed."""
        if is_first_rank():
            with told_of_files(self.path):
                self._save(name, write_files)
        wait_for_ranks()  # nobody leaves while the first rank still writes

    def _save(self, name: str, write_files) -> None:
        temporary = self.path / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            write_files(temporary)
        except Exception as error:  # safetensors and torch have errors of their own for a full disk
            if shutil.disk_usage(self.path).free < 2**20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        lengths = {log: (self.path / log).stat().st_size for log in LOGS if (self.path / log).exists()}
        write(temporary / "logs.json", json.dumps(lengths))
        files = [f for f in sorted(temporary.rglob("*")) if f.is_file()]
        digests = {str(f.relative_to(temporary)): sha256_of(f) for f in files}
        write(temporary / "manifest.json", json.dumps(digests, indent=1))
        for file in [*files, temporary / "manifest.json", *(self.path / log for log in lengths)]:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(self.path / name, ignore_errors=True)
        temporary.rename(self.path / name)
        checkpoints = self._checkpoints()
        for step in sorted(checkpoints)[:-2]:
            shutil.rmtree(checkpoints[step])

    def _checkpoints(self) -> dict[int, Path]:
        """Finished checkpoints by step; a folder still called .tmp was never finished."""
        numbered = {path.name.partition("-")[2]: path for path in self.path.glob("checkpoint-*")}
        return {int(step): path for step, path in numbered.items() if step.isdigit()}

    def _is_whole(self, folder: Path) -> bool:
        """Whether every file of a checkpoint is as it was written; says which is not."""
        manifest = folder / "manifest.json"
        known = read_json(manifest) if manifest.exists() else None
        damaged = ["manifest.json"] if known is None else []
        for name, digest in (known or {}).items():
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                damaged.append(name)
        if damaged:
            print(f"{folder}: {', '.join(damaged)} missing or damaged, so it is left out", file=sys.stderr)
        return not damaged


# ---- files -----------------------------------------------------------------------------------------------------------
@contextmanager
def told_of_files(path: Path):
    """Turns what the system says of a directory that cannot be written into a UserError: a full disk, no permission."""
    try:
        yield
    except OSError as error:
        kept = "; the checkpoints that are there are whole, go on with --resume" if path.exists() else ""
        raise UserError(f"--run-dir {path}: {(error.strerror or str(error)).lower()}{kept}") from error


def read_json(path: Path) -> dict | None:
    """The object in a JSON file; None where it holds none."""
    try:
        value = json.loads(path.read_text())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inputs_of(cfg, stage_1: Path) -> dict[str, str]:
    """{name: sha256} of the files and of the weights that a config names, or takes from stage 1, and that are there."""
    names = [name for key in INPUTS for name in str(getattr(cfg, key, "")).split(",") if name.strip()]
    names.append(str(getattr(cfg, "canary", "")).partition(":")[2])  # of rivals, task:file
    paths = {name.strip(): ROOT / name.strip() for name in names}
    if getattr(cfg, "library", None) == "":
        paths["grpo_introspect/library.jsonl"] = stage_1 / "library.jsonl"
    folders = [name.strip() for key in MODELS for name in str(getattr(cfg, key, "")).split(",") if name.strip()]
    weights = {name: ROOT / name for name in folders}
    if getattr(cfg, "writers", None) == "":
        weights["grpo_introspect/final"] = stage_1 / "final"
    known = {name: sha256_of(path) for name, path in paths.items() if path.is_file()}
    return known | {name: glance_at(folder) for name, folder in weights.items() if folder.is_dir()}


def glance_at(folder: Path) -> str:
    """sha256 of sizes and of blocks, evenly spaced, of a folder's weights.

    Training moves them everywhere, and to read all of a large model would take minutes.
    """
    seen = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        seen.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for k in range(BLOCKS):
                file.seek(k * max(size - BLOCK, 0) // (BLOCKS - 1))
                seen.update(file.read(BLOCK))
    return seen.hexdigest()


def environment() -> dict:
    """Versions, git commit with uncommitted changes, device: what a reader needs to judge a run."""

    def git(*command: str) -> str | None:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "git_commit": git("rev-parse", "HEAD"),
        "git_diff": git("diff", "HEAD"),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "command": sys.argv,
    }
