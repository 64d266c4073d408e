"""Config contract: strict, typed, one clear line for anything wrong; every shipped config loads."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dream_tta
import eval as evaluation
import grpo_introspect
import sft_recall
from baselines import arena, grpo, reflect_retry, resd, sdpo, sft, ssd
from common import ROOT, Shared, UserError, load_config
from grpo_introspect import Config

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return load_config(Config, "grpo_introspect", path, list(overrides))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_loads_in_every_script(path):
    for module in (grpo_introspect, evaluation, sft_recall, dream_tta, grpo, reflect_retry, resd, sdpo, sft, ssd):
        load_config(module.Config, module.__name__.split(".")[-1], path, [])


def test_numbers_in_exponent_form_are_numbers(tmp_path):
    assert load(tmp_path, "grpo_introspect:\n  lr: 1e-5\n").lr == 1e-5
    assert load(tmp_path, "grpo_introspect: {}\n", "lr=2e-4").lr == 2e-4
    assert load(tmp_path, "grpo_introspect: {kl_coef: 1}\n").kl_coef == 1.0


def test_on_and_off_are_the_words_that_they_are(tmp_path):
    assert load(tmp_path, "shared: {thinking: off}\n").thinking == "off"
    assert load(tmp_path, "shared: {thinking: off}\n", "shared.thinking=on").thinking == "on"
    with pytest.raises(UserError, match="expected one of zero, lcb, none"):
        load(tmp_path, "grpo_introspect: {clip: on}\n")


def test_override_and_base(tmp_path):
    (tmp_path / "parent.yaml").write_text("shared: {seed: 3}\ngrpo_introspect: {steps: 7, lr: 0.5}\n")
    cfg = load(tmp_path, "base: parent.yaml\ngrpo_introspect: {lr: 0.25}\n", "steps=9", "shared.cluster=pre")
    assert (cfg.seed, cfg.steps, cfg.lr, cfg.cluster) == (3, 9, 0.25, "pre")


BAD = {
    "unknown key": ("grpo_introspect: {stepz: 3}", "did you mean 'steps'"),
    "unknown shared key": ("shared: {sead: 3}", "did you mean 'seed'"),
    "unknown section": ("grpo_introspct: {steps: 3}", "did you mean 'grpo_introspect'"),
    "text for a number": ('grpo_introspect: {lr: "1e-5"}', "expected float, got '1e-5' (remove the quotes)"),
    "float for a count": ("grpo_introspect: {steps: 2.5}", "expected int"),
    "bool for a count": ("grpo_introspect: {steps: yes}", "expected int"),
    "number for a switch": ("grpo_introspect: {clip: 0}", "expected one of zero, lcb, none"),
    "unknown switch": ("grpo_introspect: {clip: zeros}", "expected one of"),
    "nan": ("grpo_introspect: {lr: .nan}", "finite"),
    "infinity": ("grpo_introspect: {lr: .inf}", "finite"),
    "negative": ("grpo_introspect: {steps: -1}", "at least 0"),
    "zero steps": ("grpo_introspect: {steps: 0}", "at least 1"),
    "zero temperature": ("grpo_introspect: {temperature: 0}", "above 0"),
    "group of one": ("grpo_introspect: {group_size: 1}", "use baseline: fresh"),
    "list": ("- 1\n- 2", "expected sections"),
    "list value": ("grpo_introspect: {steps: [1]}", "expected int"),
    "section is text": ("grpo_introspect: hello", "must hold 'key: value' lines"),
    "empty file": ("", "expected sections"),
    "tag": ("grpo_introspect: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "builtin tag": ("grpo_introspect: {steps: !!int abc}", "invalid literal"),
    "key is a list": ("{[a]: 3}", "yaml:"),
    "broken yaml": ("grpo_introspect: {steps: 3", "line"),
    "duplicate key": ("grpo_introspect:\n  steps: 3\n  steps: 4\n", "duplicate key 'steps'"),
    "missing base": ("base: nowhere.yaml", "no such file"),
    "base of itself": ("base: case.yaml", "one level is read"),
    "setting outside": ("steps: 3", "a setting stands in a section"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_configs_say_what_was_expected(tmp_path, case):
    text, message = BAD[case]
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert message in str(error.value) and "yaml" in str(error.value)


def test_config_that_is_not_utf8(tmp_path):
    (tmp_path / "case.yaml").write_bytes(b"shared: {model: \xe9}")
    with pytest.raises(UserError, match="not UTF-8"):
        load_config(Config, "grpo_introspect", tmp_path / "case.yaml", [])


def test_bad_override(tmp_path):
    with pytest.raises(UserError, match="key=value"):
        load(tmp_path, "shared: {}", "steps")
    with pytest.raises(UserError, match=r"--set: grpo_introspect\.stepz"):
        load(tmp_path, "shared: {}", "stepz=1")


def test_hints_that_help(tmp_path):
    with pytest.raises(UserError, match="a setting of sft_recall, and this is grpo_introspect"):
        load(tmp_path, "shared: {}", "sft_recall.epochs=3")
    with pytest.raises(UserError, match=r"write steps=\.\.\."):
        load(tmp_path, "shared: {}", "grpo_introspect.steps=3")
    with pytest.raises(UserError, match="is a folder; expected a file"):
        load_config(Config, "grpo_introspect", tmp_path, [])
    done = subprocess.run([sys.executable, "baselines/grpo.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode and "python -m baselines.grpo" in done.stderr and len(done.stderr.splitlines()) == 1


def test_files_are_looked_for_beside_the_config_first(tmp_path):
    (tmp_path / "bank.jsonl").write_text("")
    cfg = load(tmp_path, "shared: {questions: 'bank.jsonl, data/bank.jsonl'}")
    assert cfg.questions == f"{tmp_path / 'bank.jsonl'},data/bank.jsonl" and cfg.model == "organism/weights"


def test_what_to_expect_is_said_of_the_config_as_it_stands(tmp_path):
    (tmp_path / "parent.yaml").write_text("grpo_introspect: {steps: 7, expect: seven}\n")
    text = (tmp_path / "parent.yaml").read_text()
    assert load(tmp_path, text).expect == "seven" == load(tmp_path, text, "shared.seed=4").expect
    assert load(tmp_path, text, "steps=2").expect == "" == load(tmp_path, "base: parent.yaml").expect


def test_group_of_one_is_fine_with_a_fresh_baseline(tmp_path):
    assert load(tmp_path, "grpo_introspect: {group_size: 1, baseline: fresh}").group_size == 1


def test_every_setting_is_read_documented_and_unique():
    """No dead knobs: each field appears as an attribute somewhere outside its definition, and carries a comment."""
    below = [*(ROOT / "introspection").rglob("*.py"), *ROOT.glob("*.py")]
    code = "\n".join(p.read_text() for p in below)
    taking_cfg = [
        ROOT / "introspection/screen.py",
        ROOT / "introspection/reader.py",
        *(ROOT / "introspection/tables").glob("*.py"),
    ]
    helpers = "\n".join(p.read_text() for p in taking_cfg)
    shared = {f.name for f in dataclasses.fields(Shared)}
    rivals = {f.name for f in dataclasses.fields(arena.Rival)}
    read_arena = (ROOT / "baselines/arena.py").read_text() + (ROOT / "introspection/reader.py").read_text()
    files = [(Shared, "common.py", set(), code), (arena.Rival, "baselines/arena.py", shared, read_arena)]
    files += [
        (module.Config, f"{module.__name__}.py", shared, helpers)
        for module in (grpo_introspect, evaluation, sft_recall, dream_tta)
    ]
    files += [
        (module.Config, f"{module.__name__.replace('.', '/')}.py", rivals, "")
        for module in (grpo, reflect_retry, resd, sdpo, ssd, sft)
    ]
    for config_class, file, inherited, elsewhere in files:
        source = (ROOT / file).read_text()
        for name in {f.name for f in dataclasses.fields(config_class)} - inherited:
            lines = source.splitlines()
            (place,) = (n for n, line in enumerate(lines) if line.startswith(f"    {name}:"))
            assert "#" in lines[place] or lines[place - 1].startswith("    #"), f"{name} has no comment"
            assert re.search(rf"\bcfg\.{name}\b", source + elsewhere), f"{name} is never read"


def test_shipped_configs_hold_only_deltas_with_reasons():
    for path in CONFIGS:
        for section in yaml.safe_load(path.read_text()).values():
            for key in section if isinstance(section, dict) else ():
                line = next(line for line in path.read_text().splitlines() if line.strip().startswith(f"{key}:"))
                assert "#" in line or key in ("questions", "expect", "steps"), f"{path.name}: {key} has no reason"
