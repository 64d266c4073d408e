"""The graders of Countdown and function calling on labelled outputs, hostile ones among them.

Their files and generators.
"""

import json
import time
from fractions import Fraction

import pytest

from common import UserError
from tasks import countdown, function_calling
from tasks.countdown import Countdown, solve, tokens_of, value_of
from tasks.function_calling import Calling, calls_of, canonical

# ---- Countdown -------------------------------------------------------------------------------------------------------
PROBLEMS = {
    "24": Countdown("a", (3, 5, 7, 2), 24, "test"),
    "98": Countdown("b", (44, 19, 35), 98, "test"),
    "thirds": Countdown("c", (8, 3, 8, 3), 24, "test"),
    "6": Countdown("d", (10, 4), 6, "test"),
    "0": Countdown("e", (100, 25, 4), 0, "test"),
    "-6": Countdown("f", (4, 10), -6, "test"),
    "zero": Countdown("g", (0, 7, 3), 10, "test"),
}
EXPRESSIONS = {  # what stands between the tags
    ("24", True): [
        "3 * 5 + 7 + 2", "(3 * 5) + (7 + 2)", "3*5+7+2", "7+2+3*5", "2 + 7 + 5 * 3", "((3*5)+(7+2))",
        "(((3))) * 5 + 7 + 2", "3 * 5 + 7 + 2 = 24", "3*5+7+2=24", "3 × 5 + 7 + 2", "3·5+7+2", " 3 * 5 + 7 + 2 ",
        "\n3 * 5 + 7 + 2\n", "3\t*\t5 + 7 + 2", "(7 + 2) + 5 * 3", "5 * 3 + 2 + 7", "3 *5+ 7 +2", "(3*(5)) + 7 + (2)",
        "2 + (3 * 5 + 7)", "3 * 5 + 7 + 2 =24", "3 * 5 + 7 + 2= 24 ", "(5 * 3) + 2 + 7",
        # signs, spaces and brackets of other keyboards
        "2 + 7 + 5 x 3", "2+7+5x3", "(2 + 7) + (5)X(3)", "2 + 7 + 5 ⋅ 3", "2 + 7 + 5∗3", "2 + 7 + 5 ✕ 3",
        "2 + 7 + 5 • 3", "（５＊３）＋［７＋２］", "３ * 5 + 7 + 2",
        "5\u00a0×\u00a03\u2009+\u20097\u202f+\u202f2",
        "3 * 5\n+ 7 + 2", "2 + 7\r\n+ 5 * 3", "[3 * 5] + 7 + 2", "[2 + (7 + [5 * 3])]",
        # marks around the whole
        "$3 * 5 + 7 + 2$", "3 \\times 5 + 7 + 2", "\\(7 + 2 + 5 \\cdot 3\\)", "$$7 + 2 + 5\\times3$$",
        "\\[ 7 + 2 + 5 \\times 3 \\]", "`7 + 2 + 5 * 3`", "**7 + 2 + 5 * 3**", "**`7 + 2 + 5 * 3`**", "7 + 2 + 5 * 3.",
        "**7 + 2 + 5 * 3.**", "`7 + 2 + 5 * 3`.", "\n7 + 2 + 5 * 3 .\n",
        # the target beside it
        "24 = 3 * 5 + 7 + 2", "3 * 5 + 7 + 2 = 24.0", "7 + 2 + 5 * 3 = 24.", "7 + 2 + 5 * 3 -> 24", "7+2+5*3→24",
        "7 + 2 + 5 * 3 ＝ ２４", "24.00 = 7 + 2 + 5 * 3", "**7 + 2 + 5 * 3 = 24**", "**7 + 2 + 5 * 3** = **24**.",
        "**7 + 2 + 5 * 3 = 24**.",
        "$7 + 2 + 5 \\times 3$ = $24$", "\\(7 + 2 + 5 \\times 3 = 24\\)", "`7 + 2 + 5 * 3` → 24.",
    ],
    ("24", False): [
        "", " ", "24", "= 24", "3 * 5 + 7", "3 * 5 + 7 + 2 + 0", "3 * 5 + 7 + 2 = 25", "3 * 5 + 7 + 2 = 24 = 24",
        "3 * 5 + 9", "(7 + 5) * 2", "12 * 2", "3 * 8",
        "3 * 5 + 7 + 2 + 3 - 3", "33 - 7 - 2", "35 - 7 - 2", "3 5 + 7 + 2", "3(5) + 7 + 2", "(3)(5) + 7 + 2",
        "3 * 5 + 7 + 2 +", "+ 3 * 5 + 7 + 2", "-(-3) * 5 + 7 + 2", "3 * 5 - -7 + 2", "3 * 5 + +7 + 2", "3 ** 5 + 7 + 2",
        "3 // 5 + 7 + 2", "3 % 5 + 7 + 2", "3 ^ 5 + 7 + 2", "(3 * 5 + 7 + 2", "3 * 5 + 7 + 2)", ")3 * 5 + 7 + 2(",
        "() 3 * 5 + 7 + 2", "3 * 5 + 7 + 2 ()", "{3 * 5} + 7 + 2", "3.0 * 5 + 7 + 2",
        "3. * 5 + 7 + 2", "03 * 5 + 7 + 2", "3e0 * 5 + 7 + 2", "0x3 * 5 + 7 + 2", "3_0 * 5 + 7 + 2",
        "three * 5 + 7 + 2", "x * 5 + 7 + 2", "3 * 5 + 7 + 2;", "3 * 5 + 7 + 2, 24", "3 * 5 + 7 + 2 or 24",
        "3 * 5 + 7 + 2 # yes", "sum([3*5, 7, 2])", "__import__('os').system('true')", "open('/etc/passwd')",
        "3 * 5 + 7 + 2 if 1 else 0", "lambda: 24", "24 if True else 3*5+7+2", "3 * 5 + 7 + 2 == 24",
        "3 * 5 + 7 + 2 = twenty-four", "٣ * 5 + 7 + 2", "3 * 5 + 7 + ²", "\\boxed{3 * 5 + 7 + 2}",
        "3 * 5 + 7 + 2 = (24)", "5 * 5 - 3 + 2",
        "3 * 5 + 7 + 2 = ", "3 * 5 * 7 * 2", "3 - 5 - 7 - 2", "3 / (5 - 5) + 7 + 2", "(3 * 5 + 7 + 2) / (5 - 5)",
        "x 5 * 3 + 7 + 2", "5 xx 3 + 7 + 2", "5 x* 3 + 7 + 2",
        "–5 × –3 + 7 + 2", "• 5 * 3 + 7 + 2", "5 ∗∗ 3 + 7 + 2",
        "(5 * 3] + 7 + 2", "[5 * 3) + 7 + 2", "[5 * 3] (+ 7) + 2", "5² - 3 + 2", "2 + 7 + 5 \\timesx 3",
        "**5**3 + 7 + 2", "**5** * **3** + 7 + 2", "$5 * 3$ + $7 + 2$", "`5 * 3` + 7 + 2", "$5 * 3 + 7 + 2",
        "\\(5 * 3 + 7 + 2\\]", "7 + 2 + 5 * 3..", "7 + 2. + 5 * 3", "7 + 2 + 5 * 3. = 24", "7 + 2 + 5 * 3 -> 25",
        "7 + 2 + 5 * 3 → 24.5", "25 = 7 + 2 + 5 * 3",
        "24 = 24", "24 ->", "7 + 2 + 5 * 3 =", "24 = 7 + 2 + 5 * 3 = 24",
        "7 + 2 + 5 * 3 ≈ 24", "7 + 2 + 5 * 3 = 2 4", "7+2+5*3 = 24 0",
        "7 + 2 + 5 * 3 = 3 * 5 + 7 + 2", "7\u200b + 2 + 5 * 3",
        "5 * 3 = 15 -> 15 + 7 + 2 = 24", "5\u00a0\u202f3 + 7 + 2", "5\n3 + 7 + 2", "9**9**9**9", "10**1000",
    ],
    ("98", True): [
        "44 + 19 + 35", "(44+19)+35", "35 + (44 + 19)", "44+19+35=98", "19 + 35 + 44", "44 + (35 + 19)",
        "98 = 44 + 19 + 35", "(" * 90 + "35+44+19" + ")" * 90, "[" * 90 + "35+44+19" + "]" * 90,
    ],
    ("98", False): [
        "44 + 19 + 36", "4 4 + 19 + 35", "44 + 19 + 3 5", "44 + 54", "44 + 19 + 35 + 44 - 44", "98 * 44 / 44", "98",
        "44 + 19 - 35", "44 19 35", "44, 19, 35", "４ ４ + 19 + 35",
        "(" * 90 + "35+44+19" + ")" * 89, "(" * 90 + "35+44+19" + "]" * 90,
    ],
    ("thirds", True): [
        "8 / (3 - 8 / 3)", "8/(3-(8/3))", "8 ÷ (3 − 8 ÷ 3)", "(8) / ((3) - (8 / 3))", "8 / (3 - 8 / 3) = 24",
        "8 ⁄ (3 – 8 ∕ 3)", "８／（３－８／３）", "\\(8 \\div (3 - 8 \\div 3)\\) = 24.0",
    ],
    ("thirds", False): [
        "8 / 3 - 8 / 3", "8 * 3 + 8 - 8", "8 * 3", "8 * 3 * (8 / 8) * (3 / 3)", "8 / (3 - 2.6666666666666665)",
        "8 / (3 - 8 // 3)", "24", "8 * 3 + (8 - 8) * 3 * 3",
    ],
    ("6", True): ["10 - 4", "(10 - 4)", "10-4", "10 – 4", "10 − 4 = 6"],
    ("6", False): ["4 - 10", "10 - 4 - 0", "1 0 - 4", "10 + -4", "-4 + 10", "6", "10 - 4 = -6", "10 --4"],
    ("0", True): ["4 - 100 / 25", "100 / 25 - 4", "(100 - 25 * 4)", "25 * 4 - 100", "100 - 4 * 25 = 0"],
    ("0", False): ["0", "0 * 100 * 25 * 4", "100 / (25 - 25) * 4", "100 / (4 - 100 / 25)", "4 - 4"],
    ("-6", True): ["4 - 10", "(4 - 10) = -6", "4 - 10 = −6", "4 − 10 -> -6", "-6 = 4 – 10"],
    ("-6", False): ["10 - 4", "-(10 - 4)", "4 - 10 = 6", "-6", "4 - 10 -> 6"],
    ("zero", True): ["7 + 3 + 0", "0 + 7 + 3", "7 + 3 - 0", "(0 + 3) + 7"],
    ("zero", False): ["0x7 + 3", "7 + 3", "7 + 3 + 00", "7 + 3 * 0", "(7 + 3) / 0", "7 + 3 + 0 + 0"],
}  # fmt: skip
TURNS = [  # whole turns for 44, 19, 35 -> 98
    ("<answer>44 + 19 + 35</answer>", True),
    ("Let me see. 44 + 19 = 63, so <answer>44 + 19 + 35</answer>", True),
    ("<answer>44 - 19</answer> wait. <answer>44 + 19 + 35</answer>", True),
    ("<answer>44 + 19 + 35</answer> That is it.", True),
    ("<think><answer>1</answer></think>\n<answer>\n44 + 19 + 35\n</answer>\n", True),
    ("<answer>44 + 19 + 35</answer></answer>", True),
    ("<answer>44 + 19 + 35</answer> or <answer>44 + 19 - 35</answer>", False),  # the last one counts
    ("<answer>44 + 19 + 35</answer> <answer>", False),
    ("<answer>44 + 19 + 35", False),
    ("44 + 19 + 35</answer>", False),
    ("44 + 19 + 35", False),
    ("</answer>44 + 19 + 35<answer>", False),
    ("<ANSWER>44 + 19 + 35</ANSWER>", False),
    ("< answer>44 + 19 + 35</ answer>", False),
    ("<answer><answer>44 + 19 + 35</answer></answer>", True),
    ("Answer: 44 + 19 + 35", False),
    ("", False),
    ("<answer></answer>", False),
]


def labelled_countdown() -> list[tuple[str, Countdown, bool]]:
    rows = [
        (f"so <answer>{e}</answer>", PROBLEMS[name], right)
        for (name, right), listed in EXPRESSIONS.items()
        for e in listed
    ]
    return rows + [(text, PROBLEMS["98"], right) for text, right in TURNS]


def test_countdown_grader_on_labelled_outputs():
    rows = labelled_countdown()
    assert len(rows) >= 150 and len({(text, problem.id) for text, problem, _ in rows}) >= 150
    assert [(text, countdown.grade(text, problem)) for text, problem, _ in rows] == [
        (text, right) for text, _, right in rows
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "(" * 5000,
        "9" * 100_000,
        "9*" * 50_000,
        "((((" * 49,
        "1/" * 99,
        "<answer>" * 20_000,
        "-" * 150,
        "\x00" * 50,
        "9" * 199,
        "9**" * 66,
        "[(" * 100,
        "`$" * 50 + "3" + "$`" * 50,
        "=" * 200,
        "\\times" * 33,
        "9/(5-5)+" * 24,
    ],
)
def test_countdown_grader_is_bounded(hostile):
    began = time.process_time()
    assert not countdown.grade(f"<answer>{hostile}</answer>", PROBLEMS["24"])
    assert time.process_time() - began < 1  # not a speed test: one of these used to be minutes, or a crash


def test_expressions_are_exact_and_agree_with_python():
    for text in ("1 + 2 * 3 - 4 / 5", "(1 - 2) * (3 + 4) / 6", "7 / 3 / 2 * 6", "2 - 3 - 4 + 5", "1 / 3 + 1 / 6"):
        value, _ = value_of(tokens_of(text))
        assert float(value) == pytest.approx(eval(text))
    assert value_of(tokens_of("1 / 3 * 3"))[0] == Fraction(1)


def test_countdown_generator_makes_solvable_problems_apart_from_each_other(tmp_path):
    made = countdown.generate(200, 3, 20, 0)
    assert made == countdown.generate(200, 3, 20, 0) != countdown.generate(200, 3, 20, 1)
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    problems = countdown.load(path)
    for p in problems:
        assert countdown.grade(f"<answer>{solve(p.nums, p.target)}</answer>", p) and str(p.target) in p.turn
    by_split = {
        s: {(tuple(sorted(p.nums)), p.target) for p in problems if p.split == s} for s in ("train", "val", "test")
    }
    assert all(by_split.values()) and sum(map(len, by_split.values())) == 200  # nothing stands in two splits
    assert solve((1, 1), 7) is None
    with pytest.raises(UserError, match="fewer than"):
        countdown.generate(30, 2, 3, 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"nums": [1, 2]}', "target"), ('{"nums": [1], "target": 2}', "two or more"),
        ('{"nums": [1, true], "target": 2}', "whole"), ('{"nums": [1, 2.5], "target": 2}', "whole"),
        ('{"nums": "12", "target": 2}', "whole"), ('{"nums": [1, -2], "target": 2}', "at least 0"),
        ('{"nums": [1, 2], "target": 3, "split": "dev"}', "split"), ("[1]", "object"), ("{", "JSON"),
    ],
)  # fmt: skip
def test_countdown_files_are_checked(tmp_path, line, said):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"nums": [1, 2], "target": 3}\n' + line + "\n")
    with pytest.raises(UserError, match=r"bad\.jsonl:2.*" + said):
        countdown.load(path)


# ---- function calling ------------------------------------------------------------------------------------------------
WEATHER = {"name": "get_weather", "arguments": {"city": "paris", "day": "monday"}}
BUY = {"name": "buy", "arguments": {"item": "tea", "count": 3}}
NESTED = {
    "name": "plan",
    "arguments": {"stops": ["oslo", "lima"], "limits": {"cost": 10.5, "fast": True, "note": None}},
}
BARE = {"name": "stop", "arguments": {}}
GOLD = {"one": [WEATHER], "two": [WEATHER, BUY], "twice": [BUY, BUY], "nested": [NESTED], "bare": [BARE], "none": []}
W, B, N = (json.dumps(call) for call in (WEATHER, BUY, NESTED))


def planned(arguments: str) -> str:
    """A call of `plan` as a model might write it."""
    return '[{"name": "plan", "arguments": {' + arguments + "}}]"


LABELLED = {
    ("one", True): [
        f"[{W}]", W, f" [{W}] ", f"\n[{W}]\n", f"```json\n[{W}]\n```", f"```\n[{W}]\n```", f"```json\n{W}\n```",
        f"Sure: [{W}]", f"[{W}] is the call.", f"I call\n[{W}]\nand wait.",
        '[{"arguments": {"day": "monday", "city": "paris"}, "name": "get_weather"}]',
        '[{"name":"get_weather","arguments":{"city":"paris","day":"monday"}}]', json.dumps([WEATHER], indent=4),
        '[{"name": "get_weather", "arguments": {"city": "p\\u0061ris", "day": "monday"}}]',
        f"first I thought ```json\n[{B}]\n``` but no ```json\n[{W}]\n```", f"see [1]: [{W}]", f"(a) [{W}]",
        f"[note] [{W}]", f"```python\nprint(1)\n```\n```json\n[{W}]\n```", f"{{hm}} [{W}]",
        f"use {{city: paris}}: [{W}]", f"```json  \n[{W}]\n```", f"<think>tools[0]</think> [{W}]",
        f'{{"city": "paris"}} so [{W}]',
    ],
    ("one", False): [
        "", "[]", "{}", "[{}]", "null", "get_weather", "get_weather(city='paris', day='monday')", f"[{B}]",
        f"[{W}, {B}]", f"[{W}, {W}]", f"[{W}] or [{B}]", f"[{W}] [{W}]", f"{W} {W}", f"[[{W}]]", f"[{W}", f"{W[:-1]}",
        f"[{W},]", f"[{W}, ]", f"[{W}]".replace('"', "'"), f"[{W}]".replace(":", "="), f"[{W}, {{", f"[{W}, {B[:-3]}",
        '[{"name": "get_weather"}]', '[{"name": "get_weather", "arguments": {}}]',
        '[{"name": "get_weather", "arguments": {"city": "paris"}}]',
        '[{"name": "get_weather", "arguments": {"city": "paris", "day": "monday", "unit": "c"}}]',
        '[{"name": "get_weather", "arguments": {"city": "Paris", "day": "monday"}}]',
        '[{"name": "get_weather", "arguments": {"city": "paris ", "day": "monday"}}]',
        '[{"name": "Get_Weather", "arguments": {"city": "paris", "day": "monday"}}]',
        '[{"name": "get_weather", "arguments": {"day": "paris", "city": "monday"}}]',
        '[{"name": "get_weather", "arguments": ["paris", "monday"]}]',
        '[{"name": "get_weather", "arguments": "paris, monday"}]',
        '[{"function": "get_weather", "arguments": {"city": "paris", "day": "monday"}}]',
        '{"get_weather": {"city": "paris", "day": "monday"}}', '["get_weather", {"city": "paris", "day": "monday"}]',
        '[{"name": ["get_weather"], "arguments": {"city": "paris", "day": "monday"}}]',
        '[{"name": "get_weather", "arguments": {"city": "lima", "city": "paris", "day": "monday"}}]',
        '[{"name": "buy", "name": "get_weather", "arguments": {"city": "paris", "day": "monday"}}]',
        '[{"name": "get_weather", "arguments": null}]',
        '[{"name": null, "arguments": {"city": "paris", "day": "monday"}}]',
        '[{"name": "get_weather", "arguments": {"city": ["paris"], "day": "monday"}}]',
        '[{"name": "get_weather", "arguments": {"city": "paris", "day": null}}]',
        '[{"name": "get_weather", "arguments": {"city": NaN, "day": "monday"}}]', '// [1]\n[{name: "get_weather"}]',
        f"```json\n[{W}]\n``` or ```json\n[{B}]\n```", f"```json\n[{W}]\n[{B}]\n```",
        f"```python\nprint(1)\n```\n```json\n[{B}]\n```", f'"[{W}]"'.replace(W, W.replace('"', '\\"')), f"[{W}]\n[]",
        '[{"name": "get_weather", "arguments": {"city": "paris\u200b", "day": "monday"}}]',
        '[{"name": "get_weather", "arguments": {"ci\u0442y": "paris", "day": "monday"}}]', "[" * 3000,
        '[{"name": "x", "arguments": ' + '{"a":' * 600 + "1" + "}" * 600 + "}]", '{"a":' * 1500, "[{" * 2000,
    ],
    ("two", True): [
        f"[{W}, {B}]", f"[{B}, {W}]", f"[{B},{W}]", f"[\n{W},\n{B}\n]", f"```json\n[{B}, {W}]\n```",
        '[{"name": "buy", "arguments": {"count": 3, "item": "tea"}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"count": 3.0, "item": "tea"}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"count": 3e0, "item": "tea"}}, ' + W + "]", f"Two calls: [{W}, {B}].",
    ],
    ("two", False): [
        f"[{W}]", f"[{B}]", f"{W}\n{B}", f"[{W}]\n[{B}]", f"[{W}, {B}, {B}]", f"[{W}, {W}]", f"[{W}; {B}]",
        f"[{W} {B}]", f"[[{W}], [{B}]]", f"[{W}, null, {B}]", f'{{"calls": [{W}, {B}]}}',
        '[{"name": "buy", "arguments": {"item": "tea", "count": "3"}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"item": "tea", "count": 3.5}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"item": "tea", "count": true}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"item": "tea", "count": -3}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"item": "tea", "count": Infinity}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"item": "tea", "count": 03}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"item": "tea", "count": [3]}}, ' + W + "]",
        '[{"name": "buy", "arguments": {"item": "tea"}, "count": 3}, ' + W + "]", f"[{W}, {B}, 1]",
    ],
    ("twice", True): [f"[{B}, {B}]", f"```json\n[{B}, {B}]\n```", f"[ {B} , {B} ]"],
    ("twice", False): [f"[{B}]", B, f"[{B}, {B}, {B}]", f"[{B}] [{B}]", f"[{B}, {W}]", f"{B}, {B}"],
    ("nested", True): [
        f"[{N}]", N,
        planned('"limits": {"note": null, "fast": true, "cost": 10.50}, "stops": ["oslo", "lima"]'),
        planned('"stops": ["oslo", "lima"], "limits": {"cost": 1.05e1, "fast": true, "note": null}'),
    ],
    ("nested", False): [
        planned('"stops": ["lima", "oslo"], "limits": {"cost": 10.5, "fast": true, "note": null}'),
        planned('"stops": ["oslo", "lima"], "limits": {"cost": 10.5, "fast": 1, "note": null}'),
        planned('"stops": ["oslo", "lima"], "limits": {"cost": 10.5, "fast": "true", "note": null}'),
        planned('"stops": ["oslo", "lima"], "limits": {"cost": 10.5, "fast": true}'),
        planned('"stops": ["oslo", "lima", "lima"], "limits": {"cost": 10.5, "fast": true, "note": null}'),
        planned('"stops": ["oslo", "lima"], "limits": {"cost": 10, "fast": true, "note": null}'),
        planned('"stops": ["oslo", "lima"], "limits": {"cost": 10.5, "fast": True, "note": None}'),
        planned('"stops": "oslo, lima", "limits": {"cost": 10.5, "fast": true, "note": null}'),
        planned('"stops": ["oslo", "lima"], "limits": {"cost": 10.5, "fast": true, "note": ""}'),
    ],
    ("bare", True): ['[{"name": "stop", "arguments": {}}]', '[{"name": "stop"}]', '{"name": "stop"}'],
    ("bare", False): [
        "[]", '[{"name": "stop", "arguments": []}]', '[{"name": "stop", "arguments": {"now": true}}]', '["stop"]',
        "stop()", '[{"name": "stop", "arguments": ""}]',
    ],
    ("none", True): ["[]", "```json\n[]\n```", "No tool fits: []"],
    ("none", False): ["", "no call", f"[{W}]", "{}", "[null]", "[] []", "[[]]", "[", '[""]'],
}  # fmt: skip
BODY = '{"city": "paris", "day": "monday"}'
FORMS = {  # of one call to get_weather, as chat templates teach them
    True: [
        f'{{"name": "get_weather", "parameters": {BODY}}}',
        f'{{"type": "function", "name": "get_weather", "parameters": {BODY}}}',
        f'{{"name": "get_weather", "arguments": {json.dumps(BODY)}}}',
        f'{{"id": "a7", "name": "get_weather", "arguments": {BODY}}}',
        f'{{"function": {{"name": "get_weather", "arguments": {json.dumps(BODY)}}}, "id": 7, "type": "function"}}',
        f'{{"function": {W}}}',
    ],
    False: [
        f'{{"name": "get_weather", "parameters": {BODY}, "arguments": {BODY}}}',
        f'{{"type": "result", "name": "get_weather", "arguments": {BODY}}}', f'{{"type": "result", "function": {W}}}',
        f'{{"function": [{W}]}}', f'{{"function": {W}, "name": "get_weather"}}', f'{{"function": {W}, "note": "x"}}',
        f'{{"name": "get_weather", "args": {BODY}}}', f'{{"name": "get_weather", "arguments": [{BODY}]}}',
        f'{{"name": "get_weather", "arguments": {json.dumps(BODY[:-1])}}}',
        f'{{"name": "get_weather", "arguments": {json.dumps(json.dumps(BODY))}}}',
        f'{{"name": "get_weather", "arguments": {json.dumps(BODY[:-1] + ", " + BODY[1:])}}}',  # each key twice
    ],
}  # fmt: skip


def fence(body: str, language: str = "json") -> str:
    return f"```{language}\n{body}\n```"


def tag(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


FW, FB = fence(f"[{W}]"), fence(f"[{B}]")
TURNS_OF_CALLS = [  # (whole turn, the name in GOLD of what it calls; None: it is not plain)
    # siblings are one list
    (f"{FW}\n{FB}", "two"), (f"{FB}\n\n{FW}", "two"), (f"{fence(W)}\n{fence(B, '')}", "two"), (FW + FB, "two"),
    (f"Both at once:\n{FW}\n{FB}\nThese are independent.", "two"), (f"{fence(B)}\n{FB}", "twice"),
    (f"{tag(W)}\n{tag(B)}", "two"), (f"Right away. {tag(B)}{tag(W)}", "two"), (f"{tag(B)}\n{tag(f'[{B}]')}", "twice"),
    (f"<tool_call>{W}</tool_call> <tool_call>{B}</tool_call>", "two"), (tag(W), "one"),
    (f"{tag(W)}\n{tag('[]')}", "one"), (f"{tag(W)}\n<tool_call>\n{B}", "two"), (f"{FW}\n```json\n[{B}]", "two"),
    (f"{FW}\nI call get_weather: {W}", "one"), (f"{fence(W, ' json')}\n{fence(B, 'JSON')}", "two"),
    # something between them, or a word that makes one of them no answer
    (f"{FW} or {FB}", None), (f"{FW}\nThen the tea:\n{FB}", None), (f"{FW}\nIn short:\n{FW}", None),
    (f"A wrong answer:\n{FB}\n{FW}", None), (f"Do not say\n{FB}\n{FW}", None), (f"It isn't\n{FB}\n{FW}", None),
    (f"{FB}\n{FW}\nOnly the last counts.", None), (f"Either of these:\n{tag(W)}\n{tag(B)}", None),
    (f"{tag(W)} or else {tag(B)}", None), (f"{FB}\nwould be wrong if sold out, so\n{FW}", None),
    (f"For example:\n{FB}\nMy answer is [{W}]", None), (f"I could call {B}, but here it is:\n{FW}", None),
    (f"{FW}\n{tag(B)}", None), (f"{FB}\n{fence('print(1)', 'py')}\n{FW}", None),
    # taken back
    (f"{FB}\nOh, that was wrong:\n{FW}", "one"), (f"{FB} sorry, {FW}", "one"), (f"{FB} no {FB} no {FW}", None),
    (f"{fence('[1, 2]')} sorry {FW}", "one"),
    (f"{FB}\nNo doubt about it.\n{FW}", None), (f"{FB} or, if that is wrong, {FW}", None),
    # broken ones
    (f"{FW}\n{fence(f'[{B}')}", None), (f"{tag(W)}\n{tag(B[:-2])}", None), (f"{FW}\nand\n```json\n[{B[:9]}", None),
    (fence(f"[{W}]\n[{B}]"), None), (f"{fence(f'[{W}] [{B}]')}\n{FB}", None),
    (f"{FW}\n{fence('[1, 2]')}", "one"),
    # thoughts
    (f"<think>[{B}] or so</think>[{W}]", "one"), (f"perhaps {FB}</think>\n{FW}", "one"), (f"<think>[{W}]", None),
    (f"[{W}]<think>[{B}]", "one"), ("<think>" + "so " * 5000 + f"</think>[{W}]", "one"),
    # the end of a list
    (f"[{W}]. There are no other calls: []", "one"), (f"{FW}\nNo more calls: []", "one"), (f"[{W}] or []", None),
    (f"No other tool: [] or [{W}]", None), ("No other tool fits: []", "none"), (f"[{W}] [{B}], no more: []", None),
]  # fmt: skip


def problem(calls: list[dict]) -> Calling:
    return Calling("p", "", "[]", calls_of(calls), "test", json.dumps(calls))


def test_function_calling_grader_on_labelled_outputs():
    rows = [(text, name, right) for (name, right), listed in LABELLED.items() for text in listed]
    assert len({(text, name) for text, name, _ in rows}) >= 150
    assert [(text, name, function_calling.grade(text, problem(GOLD[name]))) for text, name, _ in rows] == rows


@pytest.mark.parametrize("right", [True, False])
def test_forms_of_a_call(right):
    for form in FORMS[right]:
        for turn in (form, f"[{form}]", tag(form), fence(form)):
            assert function_calling.grade(turn, problem([WEATHER])) == right, turn
    assert function_calling.grade('{"name": "stop", "arguments": null}', problem([BARE]))


def test_blocks_of_a_turn_are_joined_only_where_that_is_plain():
    made = [
        (turn, [name for name in GOLD if function_calling.grade(turn, problem(GOLD[name]))])
        for turn, _ in TURNS_OF_CALLS
    ]
    assert made == [(turn, [] if name is None else [name]) for turn, name in TURNS_OF_CALLS]


@pytest.mark.parametrize(
    "hostile",
    [
        "[" * 9999,
        "[ " * 4999,
        '[{"a":' * 1600,
        '{"a":[' * 1600,
        "[1," * 3000,
        "1" * 9999,
        "[" + "9" * 9000 + "]",
        "[]" * 5000,
        "{a}" * 3000,
        "[" * 10**6,
        "```[" * 2400,
        "```[]" * 1900,
        "<tool_call>{" * 800,
        "```json" + " " * 9900,
        "no more [ " * 990,
        "wait is that " * 700 + "```",
        "<think>" * 10**5,
    ],
)
def test_function_calling_grader_is_bounded(hostile):
    began = time.process_time()
    assert not function_calling.grade(hostile, problem([WEATHER]))
    assert time.process_time() - began < 2


def test_equal_values_have_equal_texts_and_others_do_not():
    values = [1, "1", True, None, [1], {"a": 1}, 1.5, "", [], {}, "true", [True], {"a": "1"}, [[1]], -1]
    assert len({canonical(v) for v in values}) == len(values)
    assert canonical({"b": [1.0, {"y": 2, "x": 1}], "a": 0.0}) == canonical({"a": 0, "b": [1, {"x": 1.0, "y": 2}]})
    # One letter or a letter and its accent: the same text, as a value and as a key that sorts elsewhere.
    assert (
        canonical({"e\u0301": "o\u0308", "f": 1})
        == canonical({"f": 1, "\u00e9": "\u00f6"})
        != canonical({"e": "o", "f": 1})
    )
    assert canonical("\ufb01") != canonical("fi")


def test_function_calling_generator_and_published_files(tmp_path):
    made = function_calling.generate(150, 0)
    assert made == function_calling.generate(150, 0) != function_calling.generate(150, 1)
    lines, published = tmp_path / "calls.jsonl", tmp_path / "published.json"
    lines.write_text("".join(json.dumps(r) + "\n" for r in made))
    published.write_text(
        json.dumps([{k: v for k, v in r.items() if k != "split"} | {"id": i} for i, r in enumerate(made)], indent=1)
    )
    problems = function_calling.load(lines)
    assert [p.split for p in function_calling.load(published)] == [p.split for p in problems] and {
        p.split for p in problems
    } == {"train", "val", "test"}
    for p, r in zip(problems, made, strict=True):
        assert (
            function_calling.grade(r["answers"], p)
            and p.query in p.turn
            and all(c["name"] in p.tools for c in json.loads(r["answers"]))
        )
    assert len({len(json.loads(r["answers"])) for r in made}) == 3
    assert (
        function_calling.generate(150, 0)[0]["tools"] == made[0]["tools"]
    )  # strings do not hash the same in every process


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"query": "q", "tools": "[]"}, "answers"), ({"query": "q", "tools": "[", "answers": "[]"}, "tools: not JSON"),
        ({"query": "q", "tools": "[]", "answers": "{}"}, "answers: expected a list"),
        ({"query": "q", "tools": "[]", "answers": '[{"name": 1, "arguments": {}}]'}, "answers: expected"),
        ({"query": "q", "tools": "[]", "answers": "[]", "split": "dev"}, "split"), (["q"], "object"),
    ],
)  # fmt: skip
def test_function_calling_files_are_checked(tmp_path, record, said):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"query": "q", "tools": "[]", "answers": "[]"}\n' + json.dumps(record) + "\n")
    with pytest.raises(UserError, match=r"bad\.jsonl:2.*" + said):
        function_calling.load(path)
    path.write_text("[{]")
    with pytest.raises(UserError, match="not JSON"):
        function_calling.load(path)
