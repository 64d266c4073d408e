"""The run directory: what guards it, its logs, its checkpoints, and how a stopped run goes on."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml

from common import ROOT, UserError, finite, is_first_rank, wait_for_ranks, write

LOGS = ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl", "library.jsonl", "targets.jsonl")


class Run:
    """<run-dir>/<script>/: config.yaml, env.json, the JSONL logs, checkpoint-<step>/, final/.

    docs/reference.md, 'Run directory', says what each holds.
    """

    def __init__(self, path: Path, cfg, resume: bool):
        self.path, self.cfg, self.resume, self.stopped_by = path, cfg, resume, None
        self.final = path / "final"
        self.stage_1 = (path.parent / "grpo_introspect").resolve()  # stage 1's own files are what later stages read

    @property
    def finished(self) -> bool:
        """Whether --resume finds nothing left to do."""
        return self.resume and self.final.exists()

    def check(self) -> None:
        """Raises UserError on a used directory without --resume.

        So it does on one of another config, and where none can be made.
        """
        try:
            used = self.path.exists() and any(self.path.iterdir())
        except OSError as error:
            raise UserError(f"--run-dir {self.path}: {error.strerror}") from error
        if used and not self.resume:
            raise UserError(f"{self.path} is not empty: go on with --resume, choose another --run-dir, or delete it")
        if used and (self.path / "config.yaml").exists():
            before = yaml.safe_load((self.path / "config.yaml").read_text())
            changed = [
                key
                for key, value in dataclasses.asdict(self.cfg).items()
                if key != "expect" and before.get(key, value) != value
            ]
            if changed:
                where = self.path / "config.yaml"
                raise UserError(
                    f"{where}: --resume needs the settings of the first start; changed: {', '.join(changed)}"
                )

    def open(self) -> None:
        """Creates the directory, once everything that can be wrong with the input has been looked at (by all ranks)."""
        wait_for_ranks()
        try:
            if is_first_rank():
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
        if not is_first_rank():
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
        for name in LOGS if is_first_rank() else ():
            if (self.path / name).exists():
                os.truncate(self.path / name, lengths.get(name, 0))
        wait_for_ranks()
        return step, found.get(step)

    def save(self, name: str, write_files) -> None:
        """Writes a folder whole or not at all: `write_files(folder)` into <name>.tmp, synced, then renamed."""
        if is_first_rank():
            self._save(name, write_files)
        wait_for_ranks()  # nobody leaves while the first rank still writes

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
