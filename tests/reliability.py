"""Counts what is promised: each property is tried so often, and held so often.

    python -m tests.reliability [--kills 50]      # results/reliability.json, results/reliability.md
    python -m tests.reliability --few             # two of each, nothing is written

Runs are children of this process, which has imported everything: they are killed, signalled and resumed with a model of
few words (parrot.py). 'Held' means that the run ends as the one that nobody disturbed, log by log and weight by weight
(times apart), or that what is wrong is one line and exit 2. Not part of the fast suite.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import random
import runpy
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from conftest import SMALL, config  # noqa: E402
from families import FAMILIES, tokenizer_of  # noqa: E402
from parrot import make_parrot  # noqa: E402

import dream_tta  # noqa: E402, F401 (imported once, for all children)
import eval as evaluation  # noqa: E402, F401
import sft_recall  # noqa: E402, F401
from baselines import grpo as rival  # noqa: E402, F401
from common import UserError, load_config  # noqa: E402
from grpo_introspect import Config  # noqa: E402
from introspection import library, models, prompts, rundir, sampling, update  # noqa: E402
from introspection.chat import Chat  # noqa: E402
from introspection.rundir import Run  # noqa: E402
from introspection.sampling import Trajectory  # noqa: E402
from reproduce.records import markdown_table, write_records  # noqa: E402
from tasks.bank import load_exchanges, load_questions  # noqa: E402

DRAW = random.Random(0)
TIMES = ("time/", "tokens_per_second", "peak_memory", "seconds")


# ---- children --------------------------------------------------------------------------------------------------------
def child(words: list[str], log: Path, before: Callable[[], None] = lambda: None) -> int:
    """Starts `python <words>` as a forked process; its pid. before: what happens in it first."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        before()
        script, *rest = words[1:] if words[0] == "-m" else words
        sys.argv = [script, *rest]
        with contextlib.chdir(ROOT):
            run = runpy.run_module if words[0] == "-m" else runpy.run_path
            run(script, run_name="__main__")
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(bool(left.code))
    except BaseException as error:
        print(f"Traceback: {error!r}", flush=True)
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(pid: int) -> int:
    """The exit status of a child, minus the signal's number where one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(words: list[str], log: Path, before=lambda: None) -> int:
    return ended(child(words, log, before))


class Script:
    """A script with small settings, and what its undisturbed run leaves."""

    def __init__(self, home: Path, name: str, words: list[str], stage: str):
        self.home, self.name, self.words, self.stage = home / name, name, words, stage
        self.trials = 0
        started = time.monotonic()
        self.whole = self.fresh()
        assert finish(self.command(self.whole), self.whole / "log") == 0, (self.whole / "log").read_text()
        self.seconds = time.monotonic() - started

    def fresh(self) -> Path:
        self.trials += 1
        folder = self.home / str(self.trials)
        folder.mkdir(parents=True)
        return folder

    def command(self, folder: Path, resume: bool = False) -> list[str]:
        return [*self.words, "--run-dir", str(folder), *(["--resume"] if resume else [])]

    def left(self, folder: Path) -> dict:
        """What a run leaves: its logs without times, a digest of its weights."""
        found = {}
        for path in sorted((folder / self.stage).glob("*.jsonl")):
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{k: v for k, v in r.items() if not k.startswith(TIMES)} for r in records]
        for path in (folder / self.stage).glob("final/*.safetensors"):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def as_whole(self, folder: Path) -> bool:
        return self.left(folder) == self.left(self.whole)

    def disturbed(self, number: int) -> bool:
        """A run that gets a signal at a random moment, and then goes on to its end."""
        folder = self.fresh()
        pid = child(self.command(folder), folder / "log")
        time.sleep(DRAW.uniform(0, 1.1 * self.seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        status = ended(pid)
        if status not in (0, -number, 128 + number):
            return False
        resumed = finish(self.command(folder, (folder / self.stage).exists()), folder / "log")
        held = resumed == 0 and self.as_whole(folder) and "Traceback" not in (folder / "log").read_text()
        shutil.rmtree(folder)
        return held


def scripts(home: Path) -> dict[str, Script]:
    models.save(*make_parrot(), home / "parrot")
    lines = (ROOT / "data/preeclampsia.jsonl").read_text().splitlines(keepends=True)
    split = {s: [line for line in lines if json.loads(line)["split"] == s] for s in ("train", "test", "canary")}
    (home / "bank.jsonl").write_text("".join(split["train"] + split["test"][:4] + split["canary"][:4]))
    model, bank = f"shared.model={home}/parrot", f"shared.questions={home}/bank.jsonl"

    def words(script: list[str], name: str, *settings: str) -> list[str]:
        told = [part for setting in (model, *settings) for part in ("--set", setting)]
        return [*script, "--config", f"configs/{name}.yaml", *told]

    ideal = "library=data/points_ideal.jsonl"
    small = [s for s in SMALL if s.split("=")[0] in ("group_size", "eval_questions")]
    made = {
        "stage 1": (words(["grpo_introspect.py"], "preeclampsia", bank, *SMALL, "save_every=1"), "grpo_introspect"),
        "stage 2": (words(["sft_recall.py"], "bank", ideal, "epochs=3", "eval_questions=4", "n_measure=1",
                          "candidates=1"), "sft_recall"),
        "stage 3": (words(["dream_tta.py"], "bank", ideal, "steps=4", "eval_every=2", "save_every=1", "variants=2",
                          "eval_questions=4", "n_eval=1", "n_label=2", "variants_per_step=2", "rehearse=1"),
                    "dream_tta"),
        "eval": (words(["eval.py"], "bank", *small, "blind=false", "best_of=2", "splits=val,test"), "eval"),
        "rival (grpo)": (words(["-m", "baselines.grpo"], "bank", "steps=4", "save_every=1", "eval_splits=val"), "grpo"),
    }  # fmt: skip
    return {name: Script(home, name.split()[-1].strip("()") + name[:7].strip(), *what) for name, what in made.items()}


# ---- rows ------------------------------------------------------------------------------------------------------------
Row = tuple[str, int, int]  # property, tried, held


def count(name: str, n: int, trial: Callable[[int], bool]) -> Row:
    held = 0
    for k in range(n):
        ok = trial(k)
        held += ok
        if not ok:
            print(f"   not held: {name}, trial {k}", flush=True)
    print(f"{name}: {held} of {n}", flush=True)
    return name, n, held


def small_run(folder: Path, steps: int = 4) -> Run:
    return Run(folder / "run", config(steps=steps), (folder / "run").exists())


def two_checkpoints(folder: Path) -> None:
    """A run directory with two checkpoints of the parrot, made in a process of its own."""

    def make() -> None:
        policy, _ = make_parrot()
        updater = update.Updater(policy, optimizer="adamw", lr=1e-3, temperature=1.0, max_tokens=64)
        updater.backward([Trajectory([4, 5], [([6, 7], True)])], [1.0])
        updater.apply()
        run = small_run(folder)
        run.check()
        run.open()
        for step in (1, 2):
            run.log("metrics.jsonl", {"step": step})
            run.save(f"checkpoint-{step}", lambda place: models.write_checkpoint(policy, updater, place))
        os._exit(0)

    assert ended(forked(make)) == 0


def forked(work: Callable[[], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(77)
    return pid


def goes_on_from(folder: Path) -> int | None:
    """The step from which a run would go on; None where it says in one line why it does not."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            run = small_run(folder)
            run.check()
            step = run.rewind()[0]
        except UserError:
            return None
        finally:
            rundir.HELD.clear()
    return step


def deaths_in_a_save(home: Path, most: int | None) -> Row:
    """Process death before and after every write, fsync and rename of one save."""
    places = [(rundir.os, "fsync"), (rundir, "write"), (rundir.shutil, "rmtree"), (Path, "rename"), (Path, "mkdir"),
              (models, "save_file"), (torch, "save"), (rundir, "sha256_of")]  # fmt: skip
    start = home / "save"
    start.mkdir()
    two_checkpoints(start)

    def save(folder: Path, die_at: int) -> int:
        """Saves checkpoint-3, dying at the die_at-th call (or after it, where negative); how many calls there were."""

        def work() -> None:
            calls = [0]

            def dying(original):
                def called(*args, **kwargs):
                    calls[0] += 1
                    if calls[0] == die_at:
                        os._exit(9)
                    value = original(*args, **kwargs)
                    if calls[0] == -die_at:
                        os._exit(9)
                    return value

                return called

            policy, _ = make_parrot()
            updater = update.Updater(policy, optimizer="adamw", lr=1e-3, temperature=1.0, max_tokens=64)
            run = small_run(folder)
            run.check()
            run.open()
            run.log("metrics.jsonl", {"step": 3})
            for owner, name in places:
                setattr(owner, name, dying(getattr(owner, name)))
            run.save("checkpoint-3", lambda place: models.write_checkpoint(policy, updater, place))
            os._exit(100 + calls[0])

        return ended(forked(work)) - 100

    calls = save(shutil.copytree(start, home / "count"), 0)
    deaths = [sign * k for k in range(1, calls + 1) for sign in (1, -1)][:most]

    def trial(k: int) -> bool:
        folder = shutil.copytree(start, home / f"death{k}")
        died = save(folder, deaths[k])
        return died == 9 - 100 and goes_on_from(folder) in (2, 3)

    return count(f"process death at every write, fsync and rename of a save ({calls} calls)", len(deaths), trial)


def damaged_checkpoints(home: Path, each: int) -> Row:
    """A byte flipped, or the rest cut off, at places of every file of the newest checkpoint."""
    start = home / "damage"
    start.mkdir()
    two_checkpoints(start)
    files = sorted(p.name for p in (start / "run/checkpoint-2").iterdir())
    trials = [(name, kind) for name in files for kind in ("flip", "cut") for _ in range(each)]

    def trial(k: int) -> bool:
        name, kind = trials[k]
        folder = shutil.copytree(start, home / f"damage{k}")
        path = folder / "run/checkpoint-2" / name
        content = bytearray(path.read_bytes())
        place = DRAW.randrange(len(content))
        content[place] ^= 1 << DRAW.randrange(8)
        path.write_bytes(content if kind == "flip" else content[:place])
        return goes_on_from(folder) == 1

    return count(f"a byte flipped or cut in a checkpoint's files ({', '.join(files)})", len(trials), trial)


def mutated(text: str) -> bytes:
    """The text with a few bytes changed, lost, doubled, or a value replaced by one of another kind."""
    content = bytearray(text.encode())
    for _ in range(DRAW.randint(1, 4)):
        place, how = DRAW.randrange(len(content)), DRAW.randrange(5)
        if how == 0:
            content[place] = DRAW.randrange(256)
        elif how == 1:
            del content[place : place + DRAW.randint(1, 20)]
        elif how == 2:
            content[place:place] = content[place : place + DRAW.randint(1, 40)]
        elif how == 3:
            content[place:place] = DRAW.choice([b'"', b"{", b"]", b"null", b"\\ud800", b"-1", b"\x00", b"\n", b": "])
        else:
            other = DRAW.choice(["null", "[]", "{}", "3", '""', "true", "1e999", "NaN", '"x"'])
            values = [i for i, byte in enumerate(content) if byte == ord(":")]
            if values:
                start = DRAW.choice(values) + 1
                stop = next((i for i in range(start, len(content)) if content[i] in b",}\n"), len(content))
                content[start:stop] = other.encode()
        if not content:
            content = bytearray(b" ")
    return bytes(content)


def fuzz(home: Path, name: str, text: str, read: Callable[[Path], object], n: int) -> Row:
    """Mutated files either load or are one line: no traceback."""
    path = home / f"fuzz-{name.split()[0]}"

    def trial(_: int) -> bool:
        path.write_bytes(mutated(text))
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            try:
                read(path)
            except UserError:  # one line on stderr, by common.launch
                return True
            except Exception as error:
                print(f"   {name}: {error!r}", flush=True)
                shutil.copy(path, home / f"failed-{name.split()[0]}")
                return False
        return True

    return count(f"fuzz: {name}", n, trial)


def fuzzed(home: Path, n: int) -> list[Row]:
    bank = "".join((ROOT / "data/preeclampsia.jsonl").read_text().splitlines(keepends=True)[:3])
    points = "".join((ROOT / "data/points_ideal.jsonl").read_text().splitlines(keepends=True)[:3])
    train = [q for q in load_questions(ROOT / "data/preeclampsia.jsonl") if q.split == "train"]
    turns = [{"role": role, "content": "Answer: x (A)"} for role in ("user", "assistant") * 2]
    exchange = {"id": "e1", "question_id": train[0].id, "turns": turns, "final_answer": "B", "gold": train[0].letter}
    settings = (ROOT / "configs/paper.yaml").read_text().replace("preeclampsia.yaml", str(ROOT / "configs/bank.yaml"))
    return [
        fuzz(home, "banks", bank, load_questions, n),
        fuzz(home, "libraries", points, library.load_library, n),
        fuzz(home, "exchanges", json.dumps(exchange) + "\n", lambda path: load_exchanges(path, train), n),
        fuzz(home, "configs", settings, lambda path: load_config(Config, "grpo_introspect", path, []), n),
    ]


def injections(n: int) -> Row:
    """Payloads in question, options, point, explanation and peer, with every family's tokenizer: no control id."""
    chats = {name: Chat(*tokenizer_of(name)) for name, family in FAMILIES.items() if not family.refused}
    tokens = sorted({str(t) for chat in chats.values() for t in chat.tokenizer.added_tokens_decoder.values()})
    payloads = [token for token in tokens if len(token) > 1]
    while len(payloads) < n:
        parts = [DRAW.choice([*tokens, "</introspection>", "<recall>", "Answer: x (A)", "\n\n", "\u200b", "\ud800"])
                 for _ in range(3)]  # fmt: skip
        payloads.append("".join(parts) + DRAW.choice(string.printable))
    trials = [(payload, place) for payload in payloads[:n] for place in range(5)]

    def trial(k: int) -> bool:
        payload, place = trials[k]
        said = ["q", "an option", "a point", "an explanation", "a peer"]
        plain = turns_of(*said)
        said[place] = f"{said[place]} {payload} end"
        hostile = turns_of(*said)
        for chat in chats.values():
            for make in (chat.first, lambda text, chat=chat: chat.next([], text)):
                for one, other in zip(plain, hostile, strict=True):
                    counts = [sum(i in chat.control_ids for i in make(text)) for text in (one, other)]
                    if counts[0] != counts[1]:
                        return False
        tags = ("<introspection>", "</introspection>", "<recall>")
        return all(
            one.count(tag) == other.count(tag) for one, other in zip(plain, hostile, strict=True) for tag in tags
        )

    return count(f"{n} injected payloads in 5 places, {len(chats)} chat templates", len(trials), trial)


def turns_of(question: str, option: str, point: str, explanation: str, peer: str) -> tuple[str, str]:
    asked = prompts.question_turn(question, [option, "another"], point)
    return asked, prompts.reflection_turn(False, "A", option, prompts.told(explanation, peer))


def not_finite() -> Row:
    """A loss, a gradient, a log-probability that is not finite: skipped, weights as they were; the third ends it."""

    def trial(k: int) -> bool:
        policy, _ = make_parrot()
        updater = update.Updater(policy, optimizer="sgd", lr=1.0, temperature=1.0, max_tokens=64)
        before = [p.detach().clone() for p in policy.parameters()]
        bad = [float("nan"), float("inf")][k % 2]

        def spoil(logprobs, advantages, normalizer):
            return (logprobs * bad).sum() if k < 4 else (logprobs.sqrt() * 0).sum()  # a NaN gradient of a finite loss

        batch = [Trajectory([4, 5], [([6, 7], True)])]
        try:
            for _ in range(3):
                updater.backward(batch, [1.0], loss=spoil)
                updater.clip(1.0)
                skipped = updater.apply()["skipped_steps"]
                if skipped != 1 or any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True)):
                    return False
        except UserError as error:
            return "three steps in a row" in str(error)
        return False

    return count("loss, gradient or log-probability not finite", 6, trial)


def out_of_memory(script: Script, phases: list[int]) -> Row:
    """Memory runs out at the k-th batch that a run decodes or scores: the result is that of the whole run."""

    def trial(k: int) -> bool:
        folder = script.fresh()

        def before() -> None:
            calls = [0]

            def failing(original):
                def called(*args, **kwargs):
                    calls[0] += 1
                    if calls[0] == phases[k]:
                        raise torch.OutOfMemoryError
                    return original(*args, **kwargs)

                return called

            sampling.decode = failing(sampling.decode)
            update.token_logprobs = failing(update.token_logprobs)

        done = finish(script.command(folder), folder / "log", before)
        return done == 0 and nearly(script.left(folder), script.left(script.whole))

    return count("memory runs out in any phase", len(phases), trial)


def nearly(a, b) -> bool:
    """Equal but for rounding (other batches are other sums) and for digests of weights."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(nearly(a[k], b[k]) for k in a if not k.endswith(".safetensors"))
    if isinstance(a, list):
        return len(a) == len(b) and all(nearly(x, y) for x, y in zip(a, b, strict=True))
    return abs(a - b) < 1e-3 if isinstance(a, float) and isinstance(b, float) else a == b


def full_disk(script: Script, n: int) -> Row:
    """No space is left at the k-th write of a run: one line, and once there is space it goes on to the same end."""

    def trial(k: int) -> bool:
        folder = script.fresh()

        def before() -> None:
            calls, original = [0], rundir.json.dumps

            def full(*args, **kwargs):
                calls[0] += 1
                if calls[0] > 5 * (k + 1):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return original(*args, **kwargs)

            rundir.json = type("json", (), {"dumps": full, "loads": json.loads})

        status = finish(script.command(folder), folder / "log", before)
        told = (folder / "log").read_text()
        if status == 0:  # there were fewer writes than that
            return script.as_whole(folder)
        resumed = finish(script.command(folder, True), folder / "log")
        return status == 2 and "no space left" in told and resumed == 0 and script.as_whole(folder)

    return count("no space left at a random write", n, trial)


def two_writers(script: Script, n: int) -> Row:
    """A second start while the first one writes is told who does, and the first one ends as if alone."""

    def trial(_: int) -> bool:
        folder = script.fresh()
        first = child(script.command(folder), folder / "first")
        while not (folder / script.stage / "env.json").exists():
            time.sleep(0.01)
        second = finish(script.command(folder, True), folder / "second")
        told = (folder / "second").read_text()
        return second == 2 and f"process {first} on" in told and ended(first) == 0 and script.as_whole(folder)

    return count("two writers", n, trial)


def two_processes(script: Script) -> float:
    """The largest difference between numbers that one process logs and two do."""
    folder = script.fresh()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, *script.command(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return furthest(script.left(folder), script.left(script.whole))


def furthest(a, b) -> float:
    """The largest difference of two numbers at the same place; infinite where the places differ."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((furthest(a[k], b[k]) for k in a if not k.endswith(".safetensors")), default=0.0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max(map(furthest, a, b), default=0.0)
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b)
    return 0.0 if a == b else float("inf")


# ---- the table -------------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", action="store_true", help="two of each, and nothing is written")
    parser.add_argument("--kills", type=int, default=50, help="of stage 1; two fifths as many of the others")
    args = parser.parse_args()
    few = args.few
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        of = scripts(home)
        rows = [deaths_in_a_save(home, 4 if few else None), damaged_checkpoints(home, 1 if few else 10)]
        rows += fuzzed(home, 20 if few else 1000)
        rows += [injections(2 if few else 50), not_finite()]
        rows += [
            two_writers(of["stage 1"], 2 if few else 10),
            full_disk(of["stage 1"], 2 if few else 10),
            out_of_memory(of["stage 1"], [1, 5] if few else [*range(1, 21)]),
        ]
        for name, script in of.items():
            n = 2 if few else args.kills if name == "stage 1" else 2 * args.kills // 5
            rows.append(
                count(f"kill -9 at a random moment, {name}", n, lambda _, s=script: s.disturbed(signal.SIGKILL))
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            trial = of["stage 1"].disturbed
            rows.append(count(f"{number.name} at a random moment, stage 1", 2 if few else 10,
                              lambda _, number=number, trial=trial: trial(number)))  # fmt: skip
        apart = two_processes(of["stage 1"])
    minutes = (time.monotonic() - started) / 60
    table = markdown_table(["property", "tried", "held"], [[name, str(n), str(held)] for name, n, held in rows])
    commit = rundir.environment()["git_commit"][:7]
    text = "\n".join([
        "# Reliability, counted", "",
        f"`python -m tests.reliability`, {minutes:.0f} minutes on one core, commit {commit}. Held: the run ends as the",
        "one that nobody disturbed, log by log and weight by weight (times apart), or says in one line what is wrong.",
        f"The same seed on one process and on two (torchrun): metrics and logs differ by at most {apart:.1g}.", "",
        *table, "",
    ])  # fmt: skip
    print(text)
    if not few:
        records = [{"property": name, "tried": n, "held": held} for name, n, held in rows]
        write_records(ROOT / "results/reliability.json", records)
        (ROOT / "results/reliability.md").write_text(text)
    if any(held < n for _, n, held in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
