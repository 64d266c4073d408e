"""The commands of the README and of docs/ name settings that exist, and their links lead somewhere."""

import importlib
import re
import shlex

import pytest

import common
from common import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results").glob("*.md")),
]
HISTORY = {"LOG.md"}  # says what was run under the names of its day
README = (ROOT / "README.md").read_text()


def commands_of(text: str) -> list[str]:
    blocks = "".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    listed = [line.split("&& ")[-1] for line in blocks.splitlines() if re.match(r"(pip|python|bash|torchrun) ", line)]
    return listed + re.findall(r"`((?:python|bash) [^`]+)`", text.replace("\n", " "))


COMMANDS = [c for page in PAGES if page.name not in HISTORY for c in commands_of(page.read_text())]


def test_there_are_commands():
    assert len(COMMANDS) > 40 and sum("--config" in c for c in COMMANDS) > 15
    assert sum("--config" in c for c in commands_of(README)) >= 5


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
    path = ROOT / module.replace(".", "/")
    assert module == "pytest" or path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    if "--config" in rest:
        config = rest[rest.index("--config") + 1]
        assert config == "..." or (ROOT / config).is_file()
        if config != "...":
            overrides = [rest[i + 1] for i, word in enumerate(rest) if word == "--set"]
            script = importlib.import_module(module)
            common.load_config(script.Config, module.rpartition(".")[2], ROOT / config, overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_exist(page):
    text = page.read_text()
    links = [page.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    if page.name not in HISTORY:
        folders = "introspection|tasks|baselines|reproduce|results|configs|data|organism|tests|docs"
        links += [ROOT / name for name in re.findall(rf"`((?:{folders})/[\w./]+)`", text)]
    assert [str(link) for link in links if not link.exists()] == []


def test_the_config_of_bring_your_own_loads_in_every_script(tmp_path):
    (text,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "my.yaml").write_text(text)
    for stage in common.STAGES:
        cfg = common.load_config(importlib.import_module(stage).Config, stage, tmp_path / "my.yaml", [])
        assert cfg.lora_rank == 16 and cfg.max_new_tokens > 500
