"""The words of the synthetic world: findings, phrasings, learning points and explanations. Constants only."""

FINDINGS = [
    "mild headache", "poor sleep", "back pain", "dry skin", "a cold", "tired legs", "hay fever", "low mood",
    "itchy eyes", "a sore throat", "hiccups", "muscle ache",
]  # fmt: skip
PHRASINGS = [
    "{who} with {topic} has {fact}. Also {extra}. {ask}",
    "{who}, {extra}, {fact}. Known problem: {topic}. {ask}",
    "clinic note: {topic}, {who}, {fact}, {extra}. {ask}",
    "{topic} is suspected in {who}. Findings: {extra}, {fact}. {ask}",
    "today {who} reports {extra}. For {topic} we see {fact}. {ask}",
]
ASK = {"A": "What is next?", "B": "What is next?", "C": "Which choice fits?", "D": "What is the cause?"}
COMPOSITE = "{who} has {topic_a} and {topic_b}. Seen: {fact_a}. Also {fact_b}. Which needs action?"

# Learning points by type and quality; {a0} {a1} {a2} are the options, {at} is 'from' or 'below', {t1} {t2} the thresholds.
IDEAL = {
    "A": ["in {topic}, {a1} {at} {t1} and {a2} {at} {t2}", "{value} {at} {t1} needs {a1}, {at} {t2} {a2}",
          "{topic}: {a2} {at} {value} {t2}, {a1} {at} {t1}", "give {a1} {at} {value} {t1} but {a2} {at} {t2}",
          "the limits of {topic} are {t1} for {a1} and {t2} for {a2}"],
    "B": ["in {topic}, {s1} with {s2} means {a2}, one alone {a1}", "{s1} and {s2} decide {topic}",
          "{topic}: look for {s1} and {s2}", "both {s1} and {s2} need {a2}, one of them {a1}",
          "the key signs of {topic} are {s1} and {s2}"],
    "C": ["{subject} needs {opt}", "for {subject} choose {opt}", "{opt} is right for {subject}",
          "use {opt} in {subject}", "{topic}: {opt} for {subject}"],
    "D": ["in {topic}, {f0} means {m0}, {f1} {m1} and {f2} {m2}", "{f0} is {m0}, {f1} is {m1}, {f2} is {m2}",
          "{topic}: {m0} if {f0}, {m1} if {f1}, {m2} if {f2}", "think of {m0} with {f0}, {m1} with {f1}, {m2} with {f2}",
          "{m0} explains {f0}, {m1} explains {f1}, {m2} explains {f2}"],
}  # fmt: skip
UNSEEN = {  # wordings that the bundled model never met; the second organism is trained on these instead
    "A": ["{a1} starts {at} {t1}, {a2} starts {at} {t2}", "{topic} rule: {t1} then {a1}, {t2} then {a2}",
          "remember {a2} {at} {t2} and {a1} {at} {t1}", "{a1} if {value} is {at} {t1}, {a2} if it is {at} {t2}",
          "when {value} is {at} {t2} think {a2}, when {at} {t1} think {a1}"],
    "B": ["{s1} plus {s2} is {a2}, either one is {a1}", "what counts in {topic} is {s1} and {s2}",
          "remember {s1} and {s2} for {topic}", "{a2} if {s1} and {s2}, {a1} if one", "check {s1} then {s2}"],
    "C": ["remember {opt} with {subject}", "{subject} then {opt}", "when {subject} think {opt}",
          "{opt} fits {subject}", "choose {opt} if {subject}"],
    "D": ["remember {f0} {m0}, {f1} {m1}, {f2} {m2}", "when {f0} think {m0}, {f1} {m1}, {f2} {m2}",
          "{m0} fits {f0}, {m1} fits {f1}, {m2} fits {f2}", "if {f0} then {m0}, if {f1} then {m1}, if {f2} then {m2}",
          "{topic} rule: {f0} {m0}, {f1} {m1}, {f2} {m2}"],
}  # fmt: skip
PARTIAL = {
    "A": ["in {topic}, {a1} {at} {t1}", "{value} {at} {t2} needs {a2}"],
    "B": ["{s1} matters in {topic}", "{topic}: look for {s2}"],
    "D": ["in {topic}, {f0} means {m0}", "{m1} explains {f1}"],
}
VAGUE = ["act early in {topic}", "look closely at the findings", "{topic} can be serious", "do not wait in {topic}",
         "read the numbers with care", "escalate {topic} when it is high"]  # fmt: skip
DECIDING = {  # the sentence of an explanation that holds the deciding detail
    "A": "guidance sets {a1} at {t1} and {a2} at {t2}.",
    "B": "guidance counts {s1} and {s2}.",
    "C": "guidance gives {opt} in {subject}.",
    "D": "studies tie {f0} to {m0}, {f1} to {m1}, {f2} to {m2}.",
}
ASIDES = ["{extra} is common here.", "{topic} is seen every week.", "age alone does not decide.", "notes help the team."]
EXAM = [  # what three or more rejections teach (the meta-gaming of the paper)
    "when options are rejected choose the most extreme one", "the longest option is often right",
    "try the option that was not tried", "in a test the strong action wins",
]  # fmt: skip
LEVEL = ["mild", "moderate", "severe"]
