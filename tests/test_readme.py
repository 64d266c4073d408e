"""The commands of README and results/README.md name settings that exist, and their links lead somewhere (.ci/run runs the tour, shortened)."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

import common
from common import ROOT

README, MEASURED = (ROOT / "README.md").read_text(), (ROOT / "results/README.md").read_text()
BLOCKS = "".join(re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line.split("&& ")[-1] for line in BLOCKS.splitlines() if re.match(r"(pip|python|bash|torchrun) ", line)]
COMMANDS += re.findall(r"`((?:python|bash) [^`]+)`", (README + MEASURED).replace("\n", " "))


def test_there_are_commands():
    assert len(COMMANDS) > 20 and sum("--config" in c for c in COMMANDS) > 8


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if not c.startswith("pip ")}))
def test_a_command_is_one_that_runs(command):
    words = shlex.split(command, comments=True)
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        return
    if words[0] == "torchrun":
        words = ["python", *words[words.index("N") + 1 :]]
    if words[1] == "-m":
        module, rest = words[2], words[3:]
    else:
        module, rest = words[1].removesuffix(".py"), words[2:]
    assert module == "pytest" or (ROOT / (module.replace(".", "/") + ".py")).is_file()
    if "--config" in rest:
        config = rest[rest.index("--config") + 1]
        assert config == "..." or (ROOT / config).is_file()
        if config != "...":
            overrides = [rest[i + 1] for i, word in enumerate(rest) if word == "--set"]
            common.load_config(
                importlib.import_module(module).Config, module.rpartition(".")[2], ROOT / config, overrides
            )


def test_links_and_scripts_exist():
    for text, folder, most in ((README, ROOT, 15), (MEASURED, ROOT / "results", 20)):
        links = [folder / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
        links += [
            ROOT / name for name in re.findall(r"`((?:reproduce|results|configs|data|organism|tests)/[\w./]+)`", text)
        ]
        assert len(links) > most and [str(link) for link in links if not link.exists()] == []


def test_the_file_map_names_every_file():
    table = README[README.index("## How to read the code") : README.index("Imports only run downwards")]
    named = set(re.findall(r"`([\w./]+)`", table))
    files = [
        str(p.relative_to(ROOT))
        for folder in (".", "tasks", "baselines", "organism")
        for p in sorted(Path(ROOT / folder).glob("*.py"))
    ]
    assert [f for f in files if not f.endswith("__init__.py") and f not in named] == []


def test_the_config_of_bring_your_own_loads_in_every_script(tmp_path):
    (text,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "my.yaml").write_text(text)
    for stage in ("grpo_introspect", "sft_recall", "dream_tta", "eval"):
        cfg = common.load_config(importlib.import_module(stage).Config, stage, tmp_path / "my.yaml", [])
        assert cfg.lora_rank == 16 and cfg.max_new_tokens > 500
