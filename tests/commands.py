"""Commands as a user types them behind `python`: in this process, in one of their own, and cut off in the middle.

Importing torch and transformers is most of what a process of its own costs, so few tests start one.
"""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common import ROOT
from introspection.rundir import Run

ALONE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # one thread, as conftest has it in this process
# What a process of its own begins with where it runs commands by the functions below.
HERE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import commands"


def overrides(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def same_weights(*folders) -> bool:
    """Whether two model folders hold the same weights, whatever else stands in their files."""
    one, other = (load_file(f"{folder}/model.safetensors") for folder in folders)
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def python(*words) -> subprocess.CompletedProcess:
    """Runs `python <words>` in this process, from its first line to its exit status."""
    out, err, status, argv = io.StringIO(), io.StringIO(), 0, sys.argv
    script, *rest = map(str, words[1:] if words[0] == "-m" else words)
    sys.argv = [script, *rest]
    try:
        with redirect_stdout(out), redirect_stderr(err), chdir(ROOT), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of a module that a test has imported before
            if words[0] == "-m":
                runpy.run_module(script, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as stopped:
        status = stopped.code or 0
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def process(*words, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python <words>` in a process of its own."""
    command, environment = [sys.executable, *map(str, words)], ALONE | os.environ | environment
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, env=environment)


def one_process(*commands: list[str]) -> list[subprocess.CompletedProcess]:
    """Runs one `python <words>` after the other in a process of their own."""
    done = process("-c", f"{HERE}; commands.tell({[*commands]!r})")
    assert done.returncode == 0, done.stderr
    return [subprocess.CompletedProcess(*told) for told in json.loads(done.stdout)]


def tell(commands: list[list[str]]) -> None:
    done = [python(*words) for words in commands]
    print(json.dumps([[d.args, d.returncode, d.stdout, d.stderr] for d in done]))


def killed(log: Path, lines: int, *words) -> None:
    """Runs `python <words>` in a process of its own, which is killed (kill -9) as soon as a log has so many lines."""
    done = process("-c", f"{HERE}; commands.die({str(log)!r}, {lines}, {[*map(str, words)]!r})")
    assert done.returncode == -signal.SIGKILL, done.stderr


def die(log: str, lines: int, words: list[str]) -> None:
    interrupted(Path(log), lines, lambda: os.kill(os.getpid(), signal.SIGKILL), *words)


class Dead(BaseException):
    """Nothing catches it: a run that raises it leaves its directory as kill -9 would."""


def broken_off(log: Path, lines: int, *words) -> None:
    """Runs `python <words>` in this process and lets it die as soon as a log has so many lines."""

    def dies() -> None:
        raise Dead

    with pytest.raises(Dead):
        interrupted(log, lines, dies, *words)


def interrupted(log: Path, lines: int, happens, *words) -> subprocess.CompletedProcess:
    """Runs `python <words>` in this process; `happens()` is called as soon as a log has so many lines."""
    original = Run.log

    def logged(run: Run, name: str, record: dict) -> None:
        original(run, name, record)
        if run.path / name == log and log.read_text().count("\n") == lines:
            happens()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", logged)
        return python(*words)
