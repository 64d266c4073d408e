"""introspection/rundir.py: one writer a directory, whole checkpoints only, the files and settings of the start."""

import errno
import json
import os
import re
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import yaml
from conftest import config

import dream_tta
import eval as evaluation
from baselines import grpo
from common import ROOT, UserError, busy, load_config
from introspection import rundir
from introspection.rundir import Run


def made(tmp_path, steps: int = 40, resume: bool = False, **changes) -> Run:
    run = Run(tmp_path / "run", config(steps=steps, **changes), resume)
    run.check()
    run.open()
    return run


@pytest.fixture(autouse=True)
def signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def with_checkpoints(tmp_path) -> Run:
    run = made(tmp_path)
    for step in (1, 2):
        run.log("metrics.jsonl", {"step": step})
        run.save(f"checkpoint-{step}", lambda folder: (folder / "weights").write_bytes(b"weights" * 99))
    rundir.HELD.clear()
    return run


def again(tmp_path, **changes) -> Run:
    return Run(tmp_path / "run", config(steps=40, **changes), True)


# ---- one writer ----------------------------------------------------------------------------------------------------
def refused_elsewhere(work) -> str:
    """What another process is told that does the same."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            work()
            os.write(writing, b"went on")
        except UserError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        return told.read()


def test_the_second_start_is_told_who_writes(tmp_path):
    made(tmp_path)
    holder = rf"is being written by process {os.getpid()} on .* since 20\d\d-"
    assert re.search(holder, refused_elsewhere(again(tmp_path).check))
    again(tmp_path).check()  # of this process it is the directory
    rundir.HELD.clear()  # as when it ends, however it ends: a lock is never stale
    assert refused_elsewhere(again(tmp_path).check) == "went on"


def test_two_starts_at_once_in_a_new_directory(tmp_path):
    runs = [Run(tmp_path / "run", config(steps=40), False) for _ in range(2)]
    for run in runs:
        run.check()
    runs[0].open()
    assert "is being written by" in refused_elsewhere(runs[1].open)


# ---- checkpoints ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("file", ["weights", "logs.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_the_newest_whole_checkpoint_is_used(tmp_path, capsys, file, damage):
    run = with_checkpoints(tmp_path)
    path = run.path / "checkpoint-2" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    if damage == "lose":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    assert again(tmp_path).rewind() == (1, run.path / "checkpoint-1")
    told = capsys.readouterr().err
    assert "checkpoint-2" in told and len(told.splitlines()) == 1
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_without_any_whole_checkpoint_nothing_is_cut(tmp_path):
    run = with_checkpoints(tmp_path)
    for step in (1, 2):
        (run.path / f"checkpoint-{step}/weights").write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint is whole"):
        again(tmp_path).rewind()
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_log_that_lost_lines_is_not_gone_on_with(tmp_path):
    run = with_checkpoints(tmp_path)
    (run.path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"metrics\.jsonl: shorter than when checkpoint-2 was written"):
        again(tmp_path).rewind()


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    run = with_checkpoints(tmp_path)

    def full(folder):
        (folder / "weights").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"no space left on device; the checkpoints that are there are whole"):
        run.save("checkpoint-3", full)

    def breaks(folder):
        raise RuntimeError("unexpected position")

    with pytest.raises(RuntimeError, match="unexpected position"):  # an error that is none of the disk's stays one
        run.save("checkpoint-3", breaks)
    monkeypatch.setattr(rundir.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="no space left on device"):
        run.save("checkpoint-3", breaks)
    assert again(tmp_path).rewind()[0] == 2


# ---- settings and files --------------------------------------------------------------------------------------------
def test_a_run_may_be_extended_and_nothing_else(tmp_path):
    run = with_checkpoints(tmp_path)
    run.save("final", lambda folder: None)
    longer = Run(run.path, config(steps=120), True)
    longer.check()
    assert longer.grown and not longer.finished
    longer.open()  # killed after this it is not taken for finished, though its settings are the new ones
    rundir.HELD.clear()
    killed = Run(run.path, config(steps=120), True)
    killed.check()
    assert not killed.grown and not killed.finished and killed.rewind()[0] == 2
    killed.save("final", lambda folder: None)
    same = Run(run.path, config(steps=120), True)
    same.check()
    assert same.finished
    for changes in ({"steps": 3}, {"steps": 130, "lr": 1e-3}):
        with pytest.raises(UserError, match=r"changed: (steps|lr)"):
            Run(run.path, config(**changes), True).check()


@pytest.mark.parametrize("text", [None, "", "steps: [", "just text", "\x00"])
def test_a_damaged_config_is_one_line(tmp_path, text):
    run = with_checkpoints(tmp_path)
    (run.path / "config.yaml").unlink()
    if text is not None:
        (run.path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: missing, empty or damaged"):
        again(tmp_path).check()


def test_a_setting_that_is_younger_than_the_run_had_its_default(tmp_path):
    run = made(tmp_path)
    rundir.HELD.clear()
    settings = yaml.safe_load((run.path / "config.yaml").read_text())
    (run.path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in settings.items() if k != "token_price"}))
    again(tmp_path).check()
    with pytest.raises(UserError, match="changed: token_price"):
        again(tmp_path, token_price=0.5).check()


def test_every_file_that_a_run_reads_is_known_again(tmp_path):
    """Stage 1's library where a later stage names none, the wording of turns, and a rival's canary among them."""
    files = {name: tmp_path / name for name in ("prompts.yaml", "canary.jsonl", "grpo_introspect/library.jsonl")}
    for path in files.values():
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    prompts, canary, stage_1 = files.values()
    dream = load_config(dream_tta.Config, "dream_tta", ROOT / "configs/bank.yaml", [f"shared.prompts={prompts}"])
    rival = load_config(grpo.Config, "grpo", ROOT / "configs/countdown.yaml", [f"canary=countdown:{canary}"])
    for cfg, read in ((dream, (prompts, stage_1)), (rival, (canary,))):
        run = Run(tmp_path / type(cfg).__module__, cfg, False)
        run.open()
        for path in read:
            Run(run.path, cfg, True).check()
            path.write_text("{} ")
            with pytest.raises(UserError, match=f"{path.name} is not what this run began with"):
                Run(run.path, cfg, True).check()
            path.write_text("{}")


def test_weights_that_a_run_reads_are_known_again(tmp_path, parrot):
    """A model that was trained anew into the same folder is another one: what was measured of the first is not its."""
    for name in ("start", "grpo_introspect/final", "named"):
        shutil.copytree(parrot, tmp_path / name)
    writers = {"": "grpo_introspect/final", str(tmp_path / "named"): "named"}
    for number, (named, folder) in enumerate(writers.items()):
        changes = [f"shared.model={tmp_path / 'start'}", f"writers={named}"]
        cfg = load_config(evaluation.Config, "eval", ROOT / "configs/bank.yaml", changes)
        run = Run(tmp_path / f"eval-{number}", cfg, False)
        run.open()
        for path in (tmp_path / "start", tmp_path / folder):
            Run(run.path, cfg, True).check()
            weights = path / "model.safetensors"
            whole = weights.read_bytes()
            weights.write_bytes(bytes(255 - b for b in whole))
            with pytest.raises(UserError, match=f"{path.name} is not what this run began with"):
                Run(run.path, cfg, True).check()
            weights.write_bytes(whole)


def test_an_edited_bank_is_not_gone_on_with(tmp_path, bank):
    copy = tmp_path / "bank.jsonl"
    copy.write_text((ROOT / bank).read_text())
    run = made(tmp_path, **{"shared.questions": str(copy)})
    rundir.HELD.clear()
    again(tmp_path, **{"shared.questions": str(copy)}).check()
    known = json.loads((run.path / "inputs.json").read_text())
    assert list(known) == [str(copy), "organism/weights"] and {len(value) for value in known.values()} == {64}
    copy.write_text(copy.read_text().replace("?", "!"))
    with pytest.raises(UserError, match=r"bank\.jsonl is not what this run began with"):
        again(tmp_path, **{"shared.questions": str(copy)}).check()
    (run.path / "inputs.json").write_text("[")
    with pytest.raises(UserError, match=r"inputs\.json: damaged"):
        again(tmp_path, **{"shared.questions": str(copy)}).check()


# ---- signals, waits ------------------------------------------------------------------------------------------------
def waiting_run(tmp_path, polite: bool) -> tuple[int, int]:
    """(pid, what it says on stderr) of a process that has a run open and leaves it at its next safe point, or never."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.dup2(writing, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        run = made(tmp_path)
        os.write(2, b"open\n")
        while not (run.stopped_by and polite):
            time.sleep(0.01)
        run.leave()
    except SystemExit as left:
        os._exit(left.code)
    finally:
        os._exit(77)


@pytest.mark.parametrize("number, polite", [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_is_acknowledged_and_a_second_one_does_not_wait(tmp_path, number, polite):
    pid, reading = waiting_run(tmp_path, polite)
    with os.fdopen(reading) as told:
        assert told.readline() == "open\n"
        os.kill(pid, number)
        assert told.readline() + told.readline() == "\nstopping after this phase; again to stop now\n"
        if not polite:
            os.kill(pid, number)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + number
        assert "go on with --resume" in told.read()


def test_a_signal_in_the_first_evaluation_ends_the_run_after_it(tmp_path):
    run = made(tmp_path)
    run.stopped_by = signal.SIGTERM
    run.log("eval.jsonl", {"step": 20})  # of later ones the step is saved first
    with pytest.raises(SystemExit) as left:
        run.log("eval.jsonl", {"step": 0})
    assert left.value.code == 128 + signal.SIGTERM and run.read("eval.jsonl")[-1] == {"step": 0}
    assert yaml.safe_load((run.path / "config.yaml").read_text())["steps"] == 40


def test_a_long_wait_has_a_word(capsys, monkeypatch):
    @busy("thinking", every=0.02)
    def think() -> str:
        time.sleep(0.1)
        return "done"

    assert think() == "done" == think()  # a decorator serves every call
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and all(line.startswith("   thinking, 0 s") for line in lines)
    monkeypatch.setattr("common.is_first_rank", lambda: False)  # of several processes the others wait in silence
    assert think() == "done" and not capsys.readouterr().err
