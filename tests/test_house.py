"""The house: floors, budgets, the step loop's order, no dangerous calls, no tricks that need a second reading."""

import ast
import dataclasses
import re

import pytest

from common import ROOT, STAGES, Shared
from grpo_introspect import Config

# Imports run downwards: a file may import files of earlier floors only, and within introspection/ of earlier lines. No
# stage imports a stage: stages are coupled by files.
FLOORS = [
    ["common"],
    ["introspection.prompts"],
    ["tasks"],
    ["introspection"],
    [*STAGES, "baselines", "organism"],
    ["reproduce", "benchmarks"],
]
INSIDE = [
    "bm25 cache chat detectors library losses rundir stats",
    "models replay verdicts",
    "sampling",
    "logprobs",
    "scored",
    "reader",
    "recall rehearsal teacher update",
    "rollouts training",
    "metrics screen tables.units library.__main__",
    "evaluation preflight",
    "tables.points tables.recall tables.invariance",
    "tables.transfer report.figures",
    "report.curves report.comparisons report.words",
    "report.page",
    "report.__main__",
]
SKIPPED = ("tests", "runs")
FILES = sorted(
    p
    for p in ROOT.rglob("*.py")
    if not any(part in SKIPPED or part.startswith(".") for part in p.relative_to(ROOT).parts)
)
ALL = [*FILES, *sorted((ROOT / "tests").glob("*.py"))]
BUDGETS = {"common.py": 550} | {f"{stage}.py": 450 for stage in STAGES}


def name_of(path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path) -> str:
    return name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(path) -> set[str]:
    """Modules that a file imports, 'from package import module' as package.module where that is a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                path = ROOT / deeper.replace(".", "/")
                names.add(deeper if path.with_suffix(".py").exists() or path.is_dir() else node.module)
    return names


def floor_of(module: str) -> int:
    exact = [i for i, floor in enumerate(FLOORS) if module in floor]
    return exact[0] if exact else next(i for i, floor in enumerate(FLOORS) if module.split(".")[0] in floor)


def line_of(module: str) -> int:
    inside = module.removeprefix("introspection.")
    return next(i for i, line in enumerate(INSIDE) if inside in line.split())


def test_the_glob_finds_the_house():
    assert len(FILES) > 60 and {p.parent.name for p in FILES} >= {
        "introspection",
        "tables",
        "report",
        "tasks",
        "baselines",
        "reproduce",
        "organism",
    }


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downwards(path):
    own = {m for m in imports(path) if (ROOT / m.split(".")[0]).is_dir() or (ROOT / f"{m.split('.')[0]}.py").is_file()}
    mine = module_of(path)
    floor = floor_of(mine)
    for module in own - {mine}:
        other = floor_of(module)
        assert other <= floor, f"{mine} imports {module} of a higher floor"
        if mine in STAGES:
            assert other < floor, f"{mine} imports {module}: stages are coupled by files"
        if mine.startswith("baselines"):
            assert other < floor or module.startswith("baselines"), f"{mine} imports {module}"
        if mine.startswith("organism"):
            assert other < floor or module.startswith("organism"), f"{mine} imports {module}"
        if other == floor and mine.startswith("introspection") and not path.name.startswith("__init__"):
            assert line_of(module) < line_of(mine), f"{mine} imports {module} of the same or a later line"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_line_budgets(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= BUDGETS.get(name_of(path), 400), f"{len(lines)} lines: delete something, or find a better noun"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= (130 if node.name == "main" else 70), f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", [*ALL, ROOT / "README.md"], ids=name_of)
def test_no_line_is_wider_than_120_columns(path):
    assert [n for n, line in enumerate(path.read_text().splitlines(), start=1) if len(line) > 120] == []


def test_the_readme_is_a_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1200
    command = next(
        n for n, line in enumerate(text.splitlines(), start=1) if "python grpo_introspect.py --config" in line
    )
    assert command <= 8


def test_the_root_holds_what_the_user_drew():
    drawn = "README.md requirements.txt grpo_introspect.py sft_recall.py dream_tta.py eval.py common.py configs tests"
    beside = (
        "LICENSE CONTRIBUTING.md pyproject.toml requirements-dev.txt data docs introspection tasks baselines organism "
        "reproduce benchmarks results"
    )
    made = {"runs", "build"}  # what using it leaves behind, ignored by git
    there = {
        p.name
        for p in ROOT.iterdir()
        if not p.name.startswith(".") and p.name != "__pycache__" and not p.name.endswith(".egg-info")
    }
    assert there - made == {*drawn.split(), *beside.split()}


def test_stage_1_has_few_settings():
    own = {f.name for f in dataclasses.fields(Config)} - {f.name for f in dataclasses.fields(Shared)}
    assert len(own) <= 38


def test_losses_import_torch_only():
    assert imports(ROOT / "introspection/losses.py") == {"torch"}


def test_the_step_loop_reads_like_the_procedure():
    source = (ROOT / "grpo_introspect.py").read_text()
    main = source[source.index("\ndef main(") :]
    order = [
        "common.walk(",
        "rollout_1(",
        "rollout_2(",
        "rollout_3(",
        "centred_advantages(",
        ".clamp(min=0)",
        "updater.backward(",
        "updater.clip(cfg.max_grad_norm)",
        "updater.apply()",
        'run.log("metrics.jsonl"',
        "log_points(",
        "training.save_checkpoint(",
    ]
    places = [main.index(word) for word in order]
    assert places == sorted(places)
    assert main.count("with torch.no_grad()") == 3


def test_no_dangerous_calls():
    banned = re.compile(
        r"(?<![.\w])(?:eval|exec)\(|pickle|trust_remote_code\s*=\s*True|shell\s*=\s*True|except:\s|import \*"
        r"|weights_only\s*=\s*False"
    )
    for path in FILES:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not banned.search(line), f"{path.name}:{number}: {line.strip()}"


def is_truth(node: ast.AST) -> bool:
    """Whether an expression is plainly a truth value."""
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "bool"
    return (
        called
        or isinstance(node, ast.Compare | ast.BoolOp)
        or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_text_or_list_times_a_truth_value(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sides = (node.left, node.right)
            holds = any(
                isinstance(s, ast.List | ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str))
                for s in sides
            )
            assert not (holds and any(map(is_truth, sides))), f"{path.name}:{node.lineno}: write an if"


def test_every_public_function_has_a_docstring_or_a_self_explaining_body():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name != "main":
                assert ast.get_docstring(node) or node.end_lineno - node.lineno <= 12, f"{path.name}: {node.name}"


def test_the_reference_maps_every_file_and_the_method_lists_every_departure():
    reference, method = (ROOT / "docs/reference.md").read_text(), (ROOT / "docs/method.md").read_text()
    for path in FILES:
        if path.name != "__init__.py" and path.relative_to(ROOT).parts[0] not in ("reproduce", "benchmarks"):
            assert name_of(path) in reference, f"{name_of(path)} is not in the file map of docs/reference.md"
    departures = sum(path.read_text().count("Departure from paper:") for path in FILES)
    listed = method[method.index("## Departures") :].split("\n## ")[0].count("\n- ")
    assert departures > 0 and listed >= departures


def test_the_reference_documents_every_metric():
    reference = (ROOT / "docs/reference.md").read_text()
    files = ("grpo_introspect.py", "introspection/update.py", "introspection/metrics.py")
    source = "".join((ROOT / name).read_text() for name in files)
    family = (
        r"(?:accuracy|introspection_advantage|completions|clipped|parse_rate)/[a-z_0-9]+"
        r"|[a-z_]+_rate|reward(?:_std)?|frac_reward_zero_std"
    )
    single = "entropy|kl|grad_norm|update_ratio|tokens_per_second|peak_memory_gib|skipped_steps"
    names = set(re.findall(rf'"({family}|{single})"', source))
    assert len(names) > 18
    for name in names:
        assert f"`{name}`" in reference, name
