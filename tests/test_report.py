"""The report: what is drawn of which runs, that text stays text, and the page in a browser where one is installed."""

import builtins
import html
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml
from commands import python

from common import ROOT, UserError
from introspection.report import comparisons, figures, page
from introspection.report.curves import HEALTH

HOSTILE = (
    '</script><script>document.title = "broken"</script>'
    "<img src=x onerror=\"document.title = 'broken'\">{{data}} $\\frac$"
)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def stage(folder, config: dict, **logs) -> None:
    """Writes a stage directory: config.yaml and the logs that are given (records), or table.json."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"seed": 0, "model": "start", "questions": "data/bank.jsonl"} | config)
    )
    for name, records in logs.items():
        if name == "table":
            (folder / "table.json").write_text(json.dumps(records))
        else:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def training(folder, steps: int = 10, points: int = 8, seed: int = 0, text: str = "act at 140", **config) -> None:
    """A run of stage 1 whose losers gain 0.5 at the end and whose winners gain nothing; its first point is `text`."""
    draw, rollouts, metrics = np.random.default_rng(seed), [], []
    for step in range(1, steps + 1):
        done = step / steps
        keys = (
            *HEALTH,
            "reward",
            "accuracy/attempt",
            "accuracy/verify",
            "accuracy/fresh",
            "introspection_advantage/transfer",
            "introspection_advantage/winners",
            "introspection_advantage/losers",
        )
        metrics.append(
            {"step": step, "skipped_steps": 0, "introspection_advantage/same": None} | dict.fromkeys(keys, 0.0)
        )
        metrics[-1] |= {
            "reward": done,
            "accuracy/verify": 0.3 + 0.4 * done,
            "accuracy/fresh": 0.3,
            "update_ratio": 1.0,
            "entropy": 1.0,
            "parse_rate": 1.0,
            "parse_rate/answer": 1.0,
            "introspection_advantage/losers": done / 2,
        }
        for k in range(points):
            gain = 0.0 if k % 2 else done / 2 + draw.normal(0, 0.02)
            cluster, said = f"c{k // 2 % 4}-{'AB'[k // 2 % 2]}", text if not rollouts else f"point {step}-{k}"
            rollouts.append({
                "id": f"{step}-{k}", "text": said, "question_id": f"{cluster}-{step % 3}", "exchange_id": None,
                "cluster": cluster, "source": "winner" if k % 2 else "loser", "step": step,
                "verified_on": [{"question_id": f"{cluster}-9", "n": 4, "acc_with": 0.5 + gain, "acc_without": 0.5}],
                "advantage_same": None, "advantage_transfer": gain, "ci95": [gain - 0.3, gain + 0.3], "leak": k == 2,
                "meta_gaming": False, "count": 1, "advantage": 0.1, "gain_twin": None,
                "completion": f"<introspection>{said}</introspection>", "attempt": "Answer: x (A)",
            })  # fmt: skip
    each = [{"q1": [0.4, 0.4], "q2": [0.5, 0.5]}, {"q1": [0.7, 0.4], "q2": [0.9, 0.5]}]
    evaluations = [
        {"step": s, "split": "val", "per_question": e, "accuracy/canary": 1.0}
        for s, e in zip((0, steps), each, strict=True)
    ]
    stage(
        folder,
        {"seed": seed, "eval_split": "val"} | config,
        metrics=metrics,
        rollouts=rollouts,
        eval=evaluations,
        library=rollouts[:1],
    )


def row(split: str, writer: str, condition: str, mean: float, reader: str = "start") -> dict:
    return {
        "split": split, "writer": writer, "condition": condition, "reader": reader, "seeds": 1, "clusters": 12,
        "questions": 240, "with": 0.4 + mean, "without": 0.4,
        "advantage": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}, "each_seed": [mean],
    }  # fmt: skip


def evaluation(folder, writers: str = "") -> None:
    rows = [
        row("test_clusters", writer, condition, gain)
        for writer, condition, gain in (
            ("start", "points", 0.07),
            ("trained", "points", 0.31),
            ("trained", "blind: nothing", 0.15),
        )
    ]
    stage(folder, {"table": "points", "writers": writers}, table=rows, results=[])


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def titles(report: str) -> dict[str, str]:
    """The finding of every figure of a report."""
    found = re.findall(r'<figure id="(\w+)"><svg role="img" aria-label="([^"]*)"', report)
    return {name: html.unescape(title) for name, title in found}


def drawn(*runs) -> dict[str, str]:
    """The finding of every figure that the report of some runs would have: drawn, and not written."""
    plt, stages = figures.pyplot(), page.read_stages(list(runs))
    made = page.draw(plt, stages, page.read_bank(stages))
    plt.close("all")
    return {name: " ".join(figure.get_suptitle().split()) for name, figure in made.items()}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """(runs, report) of two seeds of a training and their evaluation."""
    home = tmp_path_factory.mktemp("reported")
    for seed in (0, 1):
        training(home / f"run-{seed}/grpo_introspect", seed=seed)
    evaluation(home / "all/eval", "x/run-0/grpo_introspect/final,x/run-1/grpo_introspect/final")
    runs = [home / name for name in ("run-0", "run-1", "all")]
    page.write(runs, home / "report/r.html")
    return runs, home / "report/r.html"


# ---- figures -------------------------------------------------------------------------------------------------------
def test_a_training_with_its_evaluation(reported):
    runs, report = reported
    text = report.read_text()
    found = titles(text)
    assert found == drawn(*runs)
    assert set(found) == {
        "reward",
        "accuracy",
        "advantage",
        "advantage_by_step",
        "winners_and_losers",
        "health",
        "conditions_1",
    }
    assert found["reward"] == "The reward of points rose from 0.10 to 1.00"
    assert found["accuracy"] == "Accuracy without a point stayed at 0.30, with one rose from 0.34 to 0.70"
    assert found["advantage"] == "Introspection advantage, skill: clusters never rewarded: +0.07 to +0.31"
    assert (
        found["winners_and_losers"] == "Too few questions to tell whose points help more"
        and found["health"] == "Health: no warning sign"
    )
    assert found["conditions_1"] == "On test_clusters, points (trained writer): +0.31; written blind: at most +0.15"
    assert ">The reward of points rose from 0.10 to 1.00</text>" in text
    assert "2 seeds, 160 learning points" in text and "12 clusters, 240 questions" in text
    for name in found:
        beside = report.with_name("r_figures") / name
        assert beside.with_suffix(".svg").read_text().startswith("<?xml")
        assert beside.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_runs_that_differ_in_more_than_their_seed_are_drawn_side_by_side(tmp_path):
    training(tmp_path / "a/grpo_introspect", lr=1.0)
    training(tmp_path / "b/grpo_introspect", lr=2.0, seed=1)
    found = drawn(tmp_path / "a", tmp_path / "b")
    assert {"health_1", "health_2"} <= set(found) and found["reward"] == "The reward ends highest (1.00) with lr 1.0"
    assert found["accuracy"] == "Without a point, accuracy moves most with lr 1.0: it stayed at 0.30"
    stages = page.read_stages([tmp_path / "a", tmp_path / "b/grpo_introspect"])
    assert list(figures.arms(stages)) == ["lr 1.0", "lr 2.0"]
    training(tmp_path / "c/grpo_introspect", lr=1.0, mask="all")
    stages = page.read_stages([tmp_path / name for name in "abc"])
    assert list(figures.arms(stages)) == ["as most", "lr 2.0", "mask all"] and figures.arms(stages[:1]).keys() == {""}


def test_health_names_what_is_wrong(tmp_path):
    training(tmp_path / "a/grpo_introspect")
    log = tmp_path / "a/grpo_introspect/metrics.jsonl"
    log.write_text(
        log.read_text()
        .replace('"update_ratio": 1.0', '"update_ratio": 0.4')
        .replace('"leak_rate": 0.0', '"leak_rate": 0.5')
    )
    said = drawn(tmp_path / "a")["health"]
    assert said == "Look at this: precision swallows part of the updates, points leak answers"


def test_transfer_recall_dreams_and_rivals(tmp_path):
    pairs = [
        {
            "question_id": a,
            "cluster": a[0],
            "on": b,
            "on_cluster": b[0],
            "with": 0.5 + 0.3 * (a[0] == b[0]),
            "without": 0.5,
        }
        for a in ("x1", "x2", "y1", "y2")
        for b in ("x1", "x2", "y1", "y2")
    ]
    units = [{"writer": "start", "split": "test", "condition": "matrix", "reader": "start", "questions": pairs}]
    stage(
        tmp_path / "t/eval",
        {"table": "transfer", "writers": ""},
        results=units,
        table=[row("test", "start", "own question", 0.3)],
    )
    best = [
        {"question_id": f"q{k}", "cluster": "c", "with": 1.0, "without": float(k > 1)} for k in range(4)
    ]  # needed: q0, q1
    fired = [r | {"fired": 1 - r["without"], "score": 0.9 - 0.8 * r["without"], "text": None} for r in best]
    units = [
        {"writer": w, "split": "test", "condition": c, "reader": "start", "questions": q}
        for w, c, q in (("start", "best point", best), ("m", "recalled", fired))
    ]
    stage(
        tmp_path / "r/eval",
        {"table": "recall", "writers": "m"},
        results=units,
        table=[row("test", "start", "best point", 0.5)],
    )
    first = {
        "step": 0,
        "target": 0.2,
        "agreement": 0.2,
        "canary": 1.0,
        "target_with_point": 0.8,
        "agreement_with_point": 0.9,
        "each": {"target": {"q": 0.2}, "target_with_point": {"q": 0.8}},
    }
    stage(
        tmp_path / "d/dream_tta",
        {},
        eval=[first, {"step": 9, "target": 0.5, "agreement": 0.6, "canary": 1.0, "each": {"target": {"q": 0.5}}}],
    )
    for kind, after in (("grpo", 0.9), ("resd", 0.6)):
        ends = [
            {"step": s, "accuracy": {"test": a}, "each": {"test": {"q1": a, "q2": a}}}
            for s, a in ((0, 0.5), (9, after))
        ]
        stage(
            tmp_path / f"v/{kind}",
            {},
            eval=ends,
            rollouts=[{"step": 1, "problem_id": "q1", "text": "a", "right": True}],
        )  # Resd's: no points
    page.write([tmp_path / name for name in "trdv"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "<image" not in text  # the policy of the page would not show it
    assert titles(text) == {
        "transfer_1": "Points gain +0.30 on other questions of their cluster, +0.00 on other clusters",
        "conditions_2": "On test, best point (start writer): +0.50",
        "recall_2": "Recall fires on 100% where a point is needed, on 0% where not",
        "dreams_1": "After dreaming, accuracy without the point: 0.20 to 0.50 (too few to tell on this 1 trained "
        "cluster), gap closed +0.50",
        "rivals": "Accuracy without a point, highest change: grpo on test, +0.40 (too few to tell)",
    }  # fmt: skip


def test_a_training_on_few_questions_has_a_heat_map(tmp_path):
    training(tmp_path / "a/grpo_introspect", questions="data/preeclampsia.jsonl")
    log = tmp_path / "a/grpo_introspect/rollouts.jsonl"
    names = re.sub(
        r"c\d-[AB]-(\d)", lambda m: f"preeclampsia-{'AB'[int(m[1]) % 2]}-{1 + int(m[1]) % 3}", log.read_text()
    )
    log.write_text(names)
    assert "other clusters" in drawn(tmp_path / "a")["transfer_1"]


# ---- text, files, bad input ----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_hostile_text_is_data_and_comes_back_whole(tmp_path):
    training(tmp_path / "a/grpo_introspect", text=HOSTILE, note=HOSTILE)
    training(tmp_path / "b/grpo_introspect", text=HOSTILE, note="$x$")  # so that the note is the legend of a figure
    page.write([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert text.count("<script") == 2 and "onerror" not in re.sub(
        r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL
    ).replace("onerror=&", "")
    assert HOSTILE in data_of(text)["texts"]
    assert "2 runs, 160 learning points; thin: a run" in text
    assert not re.search(r'(?:src|href)="(?!#)', text) and "@import" not in text  # nothing is loaded


def test_every_point_is_there_and_the_same_bytes_are_written_again(reported, tmp_path):
    runs, report = reported
    page.write(runs, tmp_path / "r.html")
    first, again = (
        {p.name: p.read_bytes() for p in home.rglob("*.*") if p.is_file()} for home in (report.parent, tmp_path)
    )
    assert first == again and len(first) == 1 + 2 * 7
    data = data_of(report.read_text())
    logs = [(run / "grpo_introspect/rollouts.jsonl").read_text().splitlines() for run in runs[:2]]
    logged = [(k, json.loads(line)) for lines in logs for k, line in enumerate(lines)]
    assert [data["texts"][r[4]] for r in data["rows"]] == [r["text"] for _, r in logged]
    assert [r[9] for r in data["rows"]] == [r["leak"] + 8 * (k == 0) for k, r in logged]


def test_without_matplotlib_the_points_are_still_there(tmp_path, monkeypatch, capsys):
    training(tmp_path / "a/grpo_introspect")
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError(name)) if name == "matplotlib" else real(name, *rest),
    )
    page.write([tmp_path / "a"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert (
        capsys.readouterr().err.count("\n") == 1
        and "matplotlib is not installed" in text
        and len(data_of(text)["rows"]) == 80
    )


def test_an_unfinished_run_is_reported_and_a_broken_one_named(tmp_path):
    training(tmp_path / "a/grpo_introspect")
    log = tmp_path / "a/grpo_introspect/rollouts.jsonl"
    log.write_text(log.read_text()[:-40])  # its last line is being written
    assert len(page.read_stages([tmp_path / "a"])[0].records["rollouts"]) == 79
    log.write_text("{}\nbroken\n")
    with pytest.raises(UserError, match=r"rollouts\.jsonl:2: not JSON"):
        page.read_stages([tmp_path / "a"])


def test_the_block_on_top_says_what_ran_and_what_may_be_said(reported, tmp_path):
    text = reported[1].read_text()
    block = text[text.index('id="results"') : text.index("<h2>Figures")]
    assert (
        block.count("<tr>") == 4 and "run-0/grpo_introspect" in block and "change of introspection advantage" in block
    )
    assert "stopped after step 10 of" in block and "not finished" in block  # no final/ in these
    training(tmp_path / "a/grpo_introspect")
    (tmp_path / "a/grpo_introspect/final").mkdir()
    (tmp_path / "a/grpo_introspect/env.json").write_text('{"git_commit": "<b>abcdefgh", "git_diff": "x"}')
    page.write([tmp_path / "a"], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "finished, 10 steps" in text and "&lt;b&gt;abcd and changes" in text


def test_exam_strategies_by_corrections(tmp_path):
    records = [{"exam_strategy": {"0": [3, 0], "3": [1, 1]}}, {"exam_strategy": {"3": [1, 0]}}]
    units = [
        {"writer": writer, "condition": "points", "reader": "start", "questions": part}
        for writer, part in (("start", records), ("runs/a/final", records[:1]))
    ]
    figure = comparisons.exam_strategies(figures.pyplot(), "x", units)
    assert (
        figure.get_suptitle().replace("\n", " ")
        == "Exam strategies after 3 corrections: start writer 0.50, trained writer 1.00"
    )


def test_bad_input_is_one_line(tmp_path):
    for words in (["nowhere"], [str(tmp_path)], [str(ROOT / "data")]):
        done = python("-m", "introspection.report", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no run" in done.stderr


def test_words_that_were_told_are_likelier(tmp_path):
    """The bundled model: the rule that the explanation stated gains more from it than a false rule in its words."""
    questions = {
        q.id: q for q in page.load_questions(ROOT / "data/bank.jsonl") if q.cluster == "kidney-A" and q.split == "train"
    }
    files = [
        [json.loads(line) for line in (ROOT / f"data/points_{kind}.jsonl").read_text().splitlines()]
        for kind in ("ideal", "wrong")
    ]
    measured = {
        "attempt": "Answer: repeat test (A)",
        "source": "loser",
        "exchange_id": None,
        "leak": False,
        "meta_gaming": False,
        "count": 1,
        "verified_on": [{"question_id": "x", "n": 4, "acc_with": 1.0, "acc_without": 0.5}],
    }
    (tmp_path / "final").symlink_to(ROOT / "organism/weights")
    config = {
        "system": "",
        "temperature": 1.0,
        "max_new_tokens": 48,
        "seed": 0,
        "reveal": "explanation",
        "introspect": "prompted",
        "dtype": "float32",
        "device": "cpu",
    }
    sums = []
    for records in files:
        record = next(r for r in records if r["question_id"] in questions) | measured
        (shown,) = page.word_ratios(tmp_path, config, [record], questions, 3)
        assert "".join(piece for piece, _ in shown["words"]) == record["text"]
        sums.append(sum(ratio for _, ratio in shown["words"]))
    assert sums[0] > sums[1] + 1
    with pytest.raises(UserError, match="no final"):
        page.word_ratios(tmp_path / "final", config, [], questions, 1)


# ---- the page in a browser -----------------------------------------------------------------------------------------
PROBE = """<!doctype html>
<iframe id="f" src="r.html" style="width: 1100px; height: 900px"></iframe><pre id="out"></pre><script>
document.getElementById("f").onload = () => {
  const out = {}, w = document.getElementById("f").contentWindow, d = w.document, $ = id => d.getElementById(id);
  const set = (id, value) => {
    $(id).value = value; $(id).dispatchEvent(new w.Event("input", { bubbles: true })); return shown();
  };
  const press = (key, target) => (target || d.body).dispatchEvent(
    new w.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const shown = () => Number($("count").textContent.split(" of ")[0].replace(",", ""));
  const chosen = () => $("rows").querySelector("[aria-selected=true] .text").textContent;
  const reset = () => press("Escape", $("search"));
  out.all = shown(); out.title = d.title; out.scripts = d.scripts.length; out.images = d.images.length;
  out.first = chosen(); out.detail = $("detail").textContent.includes(out.first);
  out.rendered = $("rows").children.length;
  out.searched = set("search", "onerror"); reset(); out.reset = shown();
  out.step = (set("from", "3"), set("to", "4")); reset();
  out.cluster = set("cluster", "c1-B"); out.both = set("source", "0"); reset();
  out.winners = set("source", "1"); reset();
  out.leaks = set("flag", "1"); reset(); out.library = set("flag", "8"); reset();
  out.least = set("least", "0.45"); reset(); out.nothing = set("search", "no such word"); reset();
  press("j"); press("j"); press("k"); out.second = chosen();
  press("/"); out.focus = d.activeElement.id;
  $("list").focus(); press("End", $("list")); out.last = chosen(); out.scrolled = $("list").scrollTop > 0;
  set("order", "best"); out.best = Number($("rows").querySelector(".gain").textContent);
  out.figures = d.querySelectorAll("figure svg").length; out.wide = d.documentElement.scrollWidth <= w.innerWidth;
  out.events = d.querySelectorAll("[onerror], [onload], [onclick]").length;
  document.getElementById("out").textContent = JSON.stringify(out);
};
</script>"""


def browsed(folder) -> dict:
    """What the probe saw in r.html, opened in a headless browser."""
    (folder / "probe.html").write_text(PROBE)
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            f"http://127.0.0.1:{server.server_port}/probe.html",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        server.shutdown()
    found = re.search(r'<pre id="out">(\{.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome")
def test_the_page_in_a_browser(tmp_path):
    training(tmp_path / "a/grpo_introspect", steps=30, text=HOSTILE)
    page.write([tmp_path / "a"], tmp_path / "r.html")
    out = browsed(tmp_path)
    assert out["title"] == "a: learning points" and (out["scripts"], out["images"], out["events"]) == (2, 0, 0)
    assert out["first"] == HOSTILE and out["detail"]
    assert (out["all"], out["reset"], out["searched"], out["nothing"]) == (240, 240, 1, 0)
    assert (out["step"], out["cluster"], out["both"], out["winners"]) == (16, 60, 30, 120)
    assert (out["leaks"], out["library"]) == (30, 1) and 0 < out["least"] < 20
    assert (out["second"], out["focus"], out["last"]) == ("point 1-1", "search", "point 30-7")
    assert out["rendered"] < 60 and out["scrolled"] and out["best"] > 0.45
    assert out["figures"] == 6 and out["wide"]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome")
def test_fifty_thousand_points_open_fast(tmp_path):
    training(tmp_path / "a/grpo_introspect", steps=250, points=200)
    page.write([tmp_path / "a"], tmp_path / "r.html")
    out = browsed(tmp_path)
    assert out["all"] == 50_000 and out["rendered"] < 60
