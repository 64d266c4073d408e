"""What every script shares, and nothing of the method: config, command line, seeds and noise, ranks, files.

A script ends in `launch(main, Config, "its name")`. Bad input anywhere raises UserError: one line on stderr, exit 2.
"""

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import torch
import torch.distributed as dist
import yaml
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent
STAGES = ("grpo_introspect", "sft_recall", "dream_tta", "eval")
RIVALS = ("grpo", "reflect_retry", "ssd", "sft", "sdpo", "resd")
SCRIPTS = (*STAGES, *RIVALS)  # sections of a config beside `shared`


# Settings that name files and folders: looked for beside the config first, then from the repository's root.
FILES = ("model", "questions", "exchanges", "library", "ideal", "wrong", "prompts", "writers", "foreign")


class UserError(Exception):
    """Bad input: its text is the one clear line for stderr (file, line or key, what was expected)."""


# ---- config --------------------------------------------------------------------------------------------------------
@dataclass
class Shared:
    """The section `shared:`, the same for every script."""

    model: str = "organism/weights"  # folder or Hugging Face name of the policy's start weights
    questions: str = "data/bank.jsonl"  # question bank, JSONL (docs/reference.md, 'Records'); several with commas
    # how rows of published files get a split: by a hash of id and cluster, from their own column `split`, or from the
    # name of their file; our records have theirs
    split_by: Literal["hash", "column", "file"] = "hash"
    cluster: str = ""  # keep the clusters whose name starts with this; empty: all
    seed: int = 0  # keys all sampling noise and all choices of questions
    dtype: Literal["float32", "bfloat16"] = "float32"  # weights of the policy; bfloat16 gets fp32 masters (update.py)
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    # sampled: as the model writes them; scored: the options' likelihood decides, for base models and small ones that
    # follow no format (docs/reference.md, 'Your own model')
    answers: Literal["sampled", "scored"] = "sampled"
    # scored: whether a rationale is sampled before an answer; without one nothing is decoded (stage 1, tables)
    rationale: bool = True
    # wording of all turns: organism (the bundled model knows no other), plain (for models that others made), or a YAML
    # file of templates (docs/reference.md, 'Prompts')
    prompts: str = "organism"
    system: str = ""  # system prompt; goes in front of the first user turn where the chat template has no such role
    thinking: Literal["off", "on"] = "off"  # whether a chat template that knows thoughts is asked for them
    # leaves embeddings (and the tied head) as they are: 2.8 of Gemma 4 E2B's 4.6 B parameters
    freeze_embeddings: bool = False
    # keys and values of a rollout, GiB at most: its rows are split, with the same result. 0: a third of the free memory
    # on a CPU, where nothing can be caught; no bound on a GPU, where rows are halved when memory runs out
    kv_gib: float = 0.0
    lora_rank: int = 0  # trains fp32 LoRA adapters of this rank instead of the weights (needs peft), 0: all weights
    gradient_checkpointing: bool = False  # recomputes activations in the backward pass: less memory, a third slower

    def check_numbers(self, script: str, names: str, expected: str = "at least 1", holds=lambda n: n >= 1) -> None:
        """Raises UserError where one of the settings `names` (separated by spaces) is not as expected."""
        for name in names.split():
            if not holds(getattr(self, name)):
                key = f"{script}.{name}".removeprefix(".")  # no script: a setting of all rivals
                raise UserError(f"{key}: expected {expected}, got {getattr(self, name)}")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-5 as text; this loader reads it as the number it is, and refuses duplicate keys."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{key.value}'", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, source: str):
    """The value of a YAML text; UserError with source and line for a broken one."""
    try:
        return _Loader(text).get_single_data()
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:  # odd tags raise anything
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{source}:{line} {getattr(error, 'problem', None) or error}") from error


def check_file(path: Path, key: str, hint: str = "") -> None:
    """Raises UserError unless there is such a file; key: the setting that named it."""
    if path.is_dir():
        raise UserError(f"{key}: '{path}' is a folder; expected a file")
    if not path.is_file():
        raise UserError(f"{key}: no such file '{path}'{hint}")


def read_sections(path: Path, is_base: bool = False) -> dict[str, dict]:
    """The sections of a config file, laid over those of its `base:` (one level, relative to the file)."""
    check_file(path, "--config")
    try:
        sections = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    if not isinstance(sections, dict):
        raise UserError(
            f"{path}: expected sections (shared:, {', '.join(s + ':' for s in SCRIPTS)}), got {type(sections).__name__}"
        )
    base = sections.pop("base", None)
    for name, section in sections.items():
        if name not in ("shared", *SCRIPTS):
            hint = nearest(name, ["shared", "base", *SCRIPTS])
            if not isinstance(section, dict):
                hint = "; a setting stands in a section, such as 'shared:' or 'grpo_introspect:'"
            raise UserError(f"{path}: unknown section '{name}'{hint}")
        if not isinstance(section, dict):
            raise UserError(f"{path}: section '{name}' must hold 'key: value' lines, got {type(section).__name__}")
    for section in sections.values():
        for key in FILES:
            if isinstance(section.get(key), str):
                section[key] = beside(path.parent, section[key])
    if base is None:
        return sections
    if is_base:
        raise UserError(f"{path}: 'base: {base}' in a file that is a base itself; one level is read")
    merged = read_sections(path.parent / str(base), is_base=True)
    for name in {*merged, *sections}:
        lent = {key: value for key, value in merged.get(name, {}).items() if key != "expect"}
        merged[name] = lent | sections.get(name, {})
    return merged


def beside(folder: Path, names: str) -> str:
    """Names of files, with commas between them, each of them the file beside the config where there is one."""
    found = [(name.strip(), folder / name.strip()) for name in names.split(",")]
    return ",".join(str(path.resolve()) if name and path.exists() else name for name, path in found)


def nearest(key, valid: list[str]) -> str:
    close = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(valid)}"


def coerce(value, annotation, where: str):
    """`value` as a field's type.

    Whole numbers may stand for floats, nothing else changes type. Numbers are finite and >= 0.
    """
    if get_origin(annotation) is Literal:
        if isinstance(value, bool) and "on" in get_args(annotation):
            value = "on" if value else "off"  # YAML 1.1 reads these two words as true and false
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
        section, _, rest = key.partition(".")
        if section in SCRIPTS:
            what = f"write {rest}=..." if section == stage else f"a setting of {section}, and this is {stage}"
            raise UserError(f"--set {override}: {what}")
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
    if any(key not in ("seed", "device", "show_every", "save_every") for _, key in sources):
        settings.pop("expect", None)  # that of the config as it stands in the file
    cfg = config_class(**settings)
    try:
        cfg.check()
    except UserError as error:
        raise UserError(f"{path}{' with --set' if overrides else ''}: {error}") from None
    return cfg


@dataclass
class Options:
    """What the command line says beside the config. run_dir: <run-dir>/<script>."""

    run_dir: Path
    resume: bool = False
    dry_run: bool = False
    preflight: bool = False


def launch(main, config_class, stage: str) -> None:
    """Command line of every script: main(cfg, options). Turns UserError into one line on stderr and exit 2."""
    parser = argparse.ArgumentParser(prog=f"{stage}.py")
    parser.add_argument(
        "--config", type=Path, required=True, help="YAML file with sections 'shared' and one per script"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="key=value",
        help="override a setting (shared.key for the shared section)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<config name>")
    parser.add_argument("--dry-run", action="store_true", help="check config and data, print the plan, load no weights")
    if stage == "grpo_introspect":
        parser.add_argument("--preflight", action="store_true", help="ask a few questions, say what cannot work, stop")
    args = parser.parse_args()
    join_ranks()
    try:
        cfg = load_config(config_class, stage, args.config, args.set)
        run_dir = (args.run_dir or ROOT / "runs" / args.config.stem) / stage
        main(cfg, Options(run_dir, args.resume, args.dry_run, vars(args).get("preflight", False)))
    except UserError as error:
        print(f"{stage}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before a run directory is open; from then on the run says what it does (rundir.py)
        print(f"{stage}: stopped", file=sys.stderr)
        sys.exit(130)


@contextmanager
def busy(what: str, every: float = 10.0):
    """Says every ten seconds what takes so long, wherever no bar moves meanwhile."""
    ended, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(every) and is_first_rank():
            tqdm.write(f"   {what}, {time.monotonic() - started:.0f} s", file=sys.stderr)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# ---- noise ---------------------------------------------------------------------------------------------------------
def rng(*key: int) -> np.random.Generator:
    """A generator that depends on its key (seed, step, reader, phase, ...) alone.

    So a resumed run needs no replay.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def walk(items: list, step: int, size: int, *key: int) -> list:
    """The `size` items of a step (counted from 1) on an endless walk through `items`.

    Every epoch is shuffled anew; key: of the shuffles' noise.
    """
    places = range((step - 1) * size, step * size)
    return [items[rng(*key, place // len(items)).permutation(len(items))[place % len(items)]] for place in places]


def draw_some(items: list, most: int, draw: np.random.Generator) -> list:
    """At most so many of the items, in their order."""
    return [items[i] for i in sorted(draw.permutation(len(items))[:most])]


# All noise is keyed by (seed, step, reader, phase, ...), choices of questions by (seed, phase, ...). Every published
# number hangs on these integers: they are never changed, only added to. A key shorter than four words is padded with
# zeros, so that (7, 50, 1) and (7, 50, 1, 0) are one stream; tests/test_noise.py lists the pairs that coincide.
class ReaderNumber:
    """Third word of a key: who answers, by script."""

    STEP, EVALUATION = 0, 1  # grpo_introspect; eval.py asks as EVALUATION
    RECALL_MEASURE, RECALL_EVALUATION = 1, 2  # sft_recall
    DREAM, DREAM_LABELS, DREAM_EVALUATION, DREAM_WITH_POINT = 1, 2, 3, 4  # dream_tta
    RIVAL, RIVAL_EVALUATION, RIVAL_TRIES, RIVAL_COLLECT, RIVAL_ATTEMPTS = 5, 6, 7, 8, 9  # baselines
    ANSWERS, COLLECT = 7, 8  # reproduce
    PREFLIGHT, CANARY = 10, 11  # grpo_introspect, before its first step


class RolloutPhase:
    """introspection/rollouts.py, for stage 1 and eval.py; a turn of correction adds its number to CORRECTIONS."""

    ATTEMPTS, POINTS, VERIFY, FRESH, VIEWS, CANARY, CORRECTIONS = range(7)


class RecallPhase:
    """sft_recall.py; each group of questions adds its place to EVALUATE."""

    BASE, CANDIDATES, ORDER, EVALUATE, AGAIN = 20, 21, 22, 23, 31
    FIRING = 29  # groups of questions end at EVALUATE + 2


class DreamPhase:
    """dream_tta.py; each group of questions adds its place to EVALUATE."""

    VARY, LABEL, DREAM, ORDER, EVALUATE = range(30, 35)
    OWN = 29  # groups of questions end at EVALUATE + 3


class RehearsalPhase:
    """introspection/rehearsal.py, for stages 2 and 3, beside the phases of either."""

    MAKE_UP, REPLY = 28, 38


class TablePhase:
    """introspection/tables; invariance adds the number of a context to AGAINST and to AGAIN."""

    RECALLING, ANSWERING, UNAIDED, ELSEWHERE, BEGUN, FIRST, AGAINST, AGAIN = 40, 41, 42, 43, 44, 45, 50, 60


class RivalPhase:
    """baselines, by rival; generation k of a chain adds 2 k to ANSWER and SUMMARY of grpo."""

    ORDER, EVALUATE = 50, 51  # arena
    ANSWER, SUMMARY = 60, 61  # grpo
    COLLECT, REFLECTION, SECOND, TRIES = 62, 63, 64, 65  # reflect_retry
    SDPO_ANSWER = 66
    SSD_GENERATE, SSD_VIEW, SSD_SHUFFLE = 66, 75, 76  # (seed, 66, i) is no key of sdpo: (seed, step, 5, 66, ...)
    SFT_ATTEMPTS, SFT_SHUFFLE, SFT_VIEW = 67, 68, 69
    RESD_ANSWER, DIAGNOSIS, TAGS, CURATION, CONCISE = 70, 71, 72, 73, 74


class ReproducePhase:
    """reproduce/answers.py (by hard.py too) and collect.py."""

    VIEWS, ANSWERS, COLLECT_VIEWS, COLLECT_ANSWERS, FIRST = range(90, 95)


# ---- ranks -----------------------------------------------------------------------------------------------------------
# Several processes that share a step's questions (torchrun); a single process is a world of one. Questions go round the
# ranks, every noise key names its question by its number in the step, gradients and token counts are summed: the result
# does not depend on how many ranks there are, rounding apart. Only the first rank writes.
def join_ranks() -> None:
    """Joins the world that torchrun describes in the environment, once; each rank owns the GPU of its local number."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        if not is_first_rank():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the life of the process)


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_first_rank() -> bool:
    return rank() == 0


def share_of_rank(items: list) -> tuple[list, list[int]]:
    """(this rank's items, their numbers in the whole list)."""
    numbers = list(range(rank(), len(items), world_size()))
    return [items[i] for i in numbers], numbers


def gather_ranks(items: list) -> list:
    """What `share_of_rank` dealt out, put together again on every rank, in order."""
    if world_size() == 1:
        return items
    parts = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def sum_over_ranks(value: float, op=dist.ReduceOp.SUM) -> float:
    """The sum (or another reduction) of a number over all ranks."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(float(value), dtype=torch.float64)
    dist.all_reduce(tensor, op)
    return tensor.item()


def max_over_ranks(value: float) -> float:
    return sum_over_ranks(value, dist.ReduceOp.MAX)


def sum_gradients(parameters: list[torch.Tensor]) -> None:
    """Adds up `.grad` over all ranks; where any rank has a gradient, every rank has one afterwards."""
    if world_size() == 1:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    dist.all_reduce(present)
    for parameter, found in zip(parameters, present.tolist(), strict=True):
        if found:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def wait_for_ranks() -> None:
    if world_size() > 1:
        dist.barrier()


def check_one_process(script: str) -> None:
    """Raises UserError under torchrun: only stage 1 shares its questions among processes."""
    if world_size() > 1:
        raise UserError(f"{script} runs in one process; start it with python, not torchrun")


# ---- files -----------------------------------------------------------------------------------------------------------
def parse_json(text: str):
    """The value of a JSON text. Raises ValueError for a broken one, for a key that stands in an object twice, and for
    half of a surrogate pair, which neither a tokenizer nor a terminal takes.
    """

    def once(pairs: list[tuple]) -> dict:
        if len({key for key, _ in pairs}) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
        return dict(pairs)

    value = json.loads(text, object_pairs_hook=once)
    if re.search(r"\\u[dD][89a-fA-F]", text) and re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise ValueError("half of a surrogate pair is no text")
    return value


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
