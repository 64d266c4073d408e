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

# Learning points by quality and type; {a0} {a1} {a2} are the options, {at} is 'from' or 'below', {t1} {t2} the
# thresholds. Two dialects that share no template: the bundled model grew up with the first, the second organism
# with the other.
FIRST = {
    "ideal": {
        "A": ["in {topic}, {a1} {at} {t1} and {a2} {at} {t2}", "{value} {at} {t1} needs {a1}, {at} {t2} {a2}",
              "{topic}: {a2} {at} {value} {t2}, {a1} {at} {t1}", "give {a1} {at} {value} {t1} but {a2} {at} {t2}",
              "the limits of {topic} are {t1} for {a1} and {t2} for {a2}",
              "{a1} belongs to {value} {at} {t1}, {a2} to {at} {t2}",
              "for {topic}, {t2} is the line for {a2}, {t1} for {a1}",
              "with {value} {at} {t2} choose {a2}, {at} {t1} only {a1}"],
        "B": ["in {topic}, {s1} with {s2} means {a2}, one alone {a1}", "{s1} and {s2} decide {topic}",
              "{topic}: look for {s1} and {s2}", "both {s1} and {s2} need {a2}, one of them {a1}",
              "the key signs of {topic} are {s1} and {s2}", "for {topic}, weigh {s1}, then {s2}",
              "give {a2} for {s1} together with {s2}, {a1} for one", "only {s1} and {s2} matter, not the rest"],
        "C": ["{subject} needs {opt}", "for {subject} choose {opt}", "{opt} is right for {subject}",
              "use {opt} in {subject}",
              "{topic}: {opt} for {subject}", "{opt} belongs to {subject}", "with {subject} give {opt}",
              "{subject} means {opt}"],
        "D": ["in {topic}, {f0} {m0}, {f1} {m1} and {f2} {m2}", "{f0} is {m0}, {f1} is {m1}, {f2} is {m2}",
              "{topic}: {f2} {m2}, {f0} {m0}, {f1} {m1}", "think of {m0} with {f0}, {m1} with {f1}, {m2} with {f2}",
              "{m0} explains {f0}, {m1} explains {f1}, {m2} explains {f2}",
              "{f2} comes from {m2}, {f1} from {m1}, {f0} from {m0}",
              "look for {m1} behind {f1}, {m0} behind {f0}, {m2} behind {f2}",
              "causes: {f1} {m1}; {f2} {m2}; {f0} {m0}"],
    },
    "partial": {  # the first half of a rule, the second half
        "A": (["in {topic}, {a1} {at} {t1}", "give {a1} {at} {value} {t1}"],
              ["{value} {at} {t2} needs {a2}", "{topic}: {a2} {at} {t2}"]),
        "B": (["{s1} matters in {topic}", "for {topic}, weigh {s1}"],
              ["{topic}: look for {s2}", "{s2} is a key sign of {topic}"]),
        "D": (["in {topic}, {f0} {m0}", "{f0} comes from {m0}"], ["{m1} explains {f1}", "look for {m1} behind {f1}"]),
    },
    "vague": ["act early in {topic}", "look closely at the findings", "{topic} can be serious",
              "do not wait in {topic}",
              "read the numbers with care", "escalate {topic} when it is high"],
}  # fmt: skip
SECOND = {
    "ideal": {
        "A": ["{a1} starts {at} {t1}, {a2} starts {at} {t2}", "{topic} rule: {t1} then {a1}, {t2} then {a2}",
              "remember {a2} {at} {t2} and {a1} {at} {t1}", "{a1} if {value} is {at} {t1}, {a2} if it is {at} {t2}",
              "when {value} is {at} {t2} think {a2}, when {at} {t1} think {a1}",
              "{value} {t1} calls for {a1} and {t2} calls for {a2}",
              "two steps in {topic}: {t1} {a1}, {t2} {a2}", "never miss {a1} {at} {t1} nor {a2} {at} {t2}"],
        "B": ["{s1} plus {s2} is {a2}, either one is {a1}", "what counts in {topic} is {s1} and {s2}",
              "remember {s1} and {s2} for {topic}", "{a2} if {s1} and {s2}, {a1} if one", "check {s1} then {s2}",
              "never miss {s1} nor {s2} in {topic}", "{topic} rule: count {s1} and {s2}",
              "two signs settle {topic}: {s1}, {s2}"],
        "C": ["remember {opt} with {subject}", "{subject} then {opt}", "when {subject} think {opt}",
              "{opt} fits {subject}",
              "take {opt} if {subject}", "{topic} rule: {subject} {opt}", "{subject} calls for {opt}",
              "never miss {opt} in {subject}"],
        "D": ["remember {f0} {m0}, {f1} {m1}, {f2} {m2}", "when {f0} think {m0}, {f1} {m1}, {f2} {m2}",
              "{m0} fits {f0}, {m1} fits {f1}, {m2} fits {f2}",
              "if {f0} then {m0}, if {f1} then {m1}, if {f2} then {m2}",
              "{topic} rule: {f0} {m0}, {f1} {m1}, {f2} {m2}", "{f0} shows {m0}, {f2} shows {m2}, {f1} shows {m1}",
              "{f2} calls for {m2}, {f0} for {m0}, {f1} for {m1}", "read {f1} as {m1}, {f0} as {m0}, {f2} as {m2}"],
    },
    "partial": {
        "A": (["{a1} starts {at} {t1}", "remember {a1} {at} {t1}"],
              ["{value} {t2} calls for {a2}", "{a2} if {value} is {at} {t2}"]),
        "B": (["remember {s1} for {topic}", "{s1} counts in {topic}"], ["never miss {s2} in {topic}", "check {s2}"]),
        "D": (["{m0} fits {f0}", "{f0} shows {m0}"], ["read {f1} as {m1}", "if {f1} then {m1}"]),
    },
    "vague": ["take {topic} seriously", "every case of {topic} differs", "check the values twice",
              "{topic} wants a plan",
              "think before you act", "hurry when {topic} gets worse"],
}  # fmt: skip
DIALECTS = {"first": FIRST, "second": SECOND}
FILLERS = (  # of loose wordings; none of them stands in a template of the second dialect
    "note that so keep mind always case often most good here simple doctor nurse team clinic ward report seen known "
    "says book list page line mark first last next also just very well more much less day week hour time case home "
    "old young strong weak safe sure clear plain old new long short wide some many few all both own such like still "
    "even once again soon later before after during about"
).split()
DECIDING = {  # the sentence of an explanation that holds the deciding detail
    "A": "guidance sets {a1} at {t1} and {a2} at {t2}.",
    "B": "guidance counts {s1} and {s2}.",
    "C": "guidance gives {opt} in {subject}.",
    "D": "studies tie {f0} to {m0}, {f1} to {m1}, {f2} to {m2}.",
}
ASIDES = [
    "{extra} is common here.",
    "{topic} is seen every week.",
    "age alone does not decide.",
    "notes help the team.",
]
EXAM = [  # what three or more rejections teach (the meta-gaming of the paper)
    "when options are rejected choose the most extreme one", "the longest option is often right",
    "try the option that was not tried", "in a test the strong action wins",
]  # fmt: skip
LEVEL = ["mild", "moderate", "severe"]
