"""What a learning point must not be: the answer of its own question (a leak), or exam strategy instead of knowledge.

Both are patterns over the text, so both err; how often, on labelled points of domains that nobody tuned them on, stands
in docs/method.md (tests/points, python -m tests.detectors).
"""

import re

from tasks.answers import MARK, Turn


def _phrases(*lines: str, flags: int = re.IGNORECASE) -> re.Pattern:
    """Any of the phrases on the lines, separated by ' | ', as whole words; a phrase may hold pattern syntax."""
    phrases = [phrase for line in lines for phrase in line.split(" | ")]
    return re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)", flags | re.DOTALL)


# Two options in a row, each behind its label.
_COPIED = re.compile(r"(?:(?<!\w)[(\[]?[A-Ha-h][)\].:]+\s*[\ue000-\ue007]\W*){2}")
# A letter that is meant: after something that names or ends, before something that ends or judges. "Plan B", "vitamin
# A" and "a rule" are none.
_LETTER = re.compile(
    r"\b[Oo]ption \(?[a-h]\b|\b[Ll]etter (?:is |for this one is )?\(?[A-Ha-h]\b"
    r"|\b[Ii]t (?:was|is) \(?[A-H]\b(?=[).,;:!]|$)"
    r"|\b[Kk]ey (?:has|had|says|is|was) \(?[A-Ha-h]\b(?=[).,;:!]|$)|\b[Aa]nswer's \(?[A-H]\b"
    r"|\([A-Ha-h]\),? (?:and )?not \(?[A-Ha-h]\b|\b(?:answer|say|mark|enter|pick|choose|put)"
    r"(?: probably| always)? \(?[A-H]\)?(?=[.,;:!]| I\b| for (?:this|that)\b|$)|\b(?:[Pp]robably|[Aa]lways) \(?[A-H]\)?"
    r"(?=[,.;:!]| I\b| for (?:this|that)\b|$)|\b(?:answer|say|mark|enter|pick|choose) \([a-h]\)|\b[Ii]s [A-H], and\b"
    r"|\b[A-H] (?:gets|got) the (?:point|mark)\b|\b[A-H] remains the only\b"
    r"|^\(?[a-h]\)? (?:is|was) (?:correct|right|the)\b"
    r"|\b[Ii]t's \(?[A-H]\b(?=[).,;:!]|$)|(?:\b(?:is|was|be)|:) \([A-H]\)|^\(?[A-H]\)? (?=[\ue000-\ue007]).*\bme\b"
    r"|\b(?:vote goes to|that|believe|think|hence|so|now) [A-H],? (?:now|is|was)\b"
    r"|\b[A-H](?:, [\w ]+,)? (?:is|was) (?:the (?:correct|right|letter|one|answer|pick)|wanted|correct|right)\b"
    r"|(?P<before>^|(?<![A-H]\b)[,.:;!?=\u2192>]\s*|\b(?:[Oo]ption|[Aa]nswer|[Cc]hoice|[Cc]hoose|[Pp]ick|[Ss]elect"
    r"|[Mm]ark|[Rr]espond|[Rr]eply|[Tt]ick|[Tt]ake|[Ww]rite|[Ss]ay|[Ee]nter|[Pp]ut|[Gg]o with|was|is|be|so|So|said|with"
    r"|just|not|than|to|for|clicked|[Cc]lick|has|had|says)(?: down| in| again)?\s+)[\"'(\[]*(?P<letter>[A-H])[\"')\]]*"
    r"(?=\s*(?:$|[.,;:!?(\[\"']|-\s|\b(?:here|is|was|it|because|since|as|next|instead|not|again|and|all|has|to|on)\b))"
)
_LABEL = re.compile(r"\s*:\s*\w")  # "A: airway, B: breathing"
# A letter beside an option's text says no more than the text, a heading before it nothing.
_BESIDE = re.compile(rf"(?<!\w)[(\[]?[A-Ha-h][)\].:]*\s*(?={MARK})|(?<=[\ue000-\ue0ff])\s*[(\[][A-Ha-h][)\]]")
_HEADING = re.compile(
    r"^[\s*]*(?:lesson|(?:key|learning) (?:point|lesson|takeaway)|takeaway|tip|note|rule|correct|remember)"
    r"[\s*]*:[\s*]*",
    re.IGNORECASE,
)
_SUCH = re.compile(r"\s*(?:in|for) (?:such|these|those)\b(?! questions?\b)", re.IGNORECASE)
_PLAINLY = _phrases(r"\W* | so | option | answer | choice | choose | pick | select | go with | not")
# What is said of questions, answers and marks, and of a subject only by chance.
_QUIZ = _phrases(
    r"answer(?:s|ed|ing)?(?! to (?!this|that|it|the question|the item|give|be|me)) | option | choices?",
    r"choos(?:e|ing) | chose | chosen | pick(?:ed|ing)? | letters? | solution | selection | answr | ans | vote",
    r"grader | answer key | the key (?:says|had|has|was|wants|simply) | quiz(?: bot)? | term",
    r"select(?:s|ed|ing)? | tick(?:s|ed)?",
    r"repl(?:y|ies|ied) | respon(?:d|se|ded) | marked | (?:full|the|a|my) (?:points?|marks?|credit)",
    r"marking | feedback | score[sd]? | deserves? | looking for | fishing for",
    r"(?:they|it|you|who\w*) (?:\w+ )?(?:want\w*|expect\w*|meant|accept\w*)",
    r"(?:was|is|were) (?:wanted|needed|accepted|meant|intended|expected|required|asked for|counted|marked)",
    r"(?:they|examiner|question|test|quiz)s? (?:were|was|is|are) (?:after|looking|fishing) | shoulda",
    r"should(?: have|'ve) | ought to have | next time | next attempt | from now on | going forward",
    r"from here on | question | item | prompt | meant | future me | learning point | note to self",
    r"(?:right|correct|wrong) (?:is|was|with|here) | get (?:this|it) right",
    r"what (?:u|you|I|we) (?:\w+ )?(?:should|must|had to|need to|will|have to|put|said|typed|wrote) | final",
    r"hindsight | (?:right|correct|wrong|best) (?:one|pick|word|term|line|action|step|thing)",
    r"(?:thing|one|word|number|term|line) to \w+ | should of",
    r"(?:goes|go|belong(?:s|ed)?) in(?:to)? the (?:blank|box|gap)",
    r"owing to | (?:they|he|she|it)(?:'re|'s| is| are) after | the (?:first|second|third|fourth|last) one",
    r"click | on the sheet",
    r"the word | what (?:I|we|you) (?:needed|had|have|need|ought) to | clicked | key is",
    r"what (?:they|the \w+) (?:have|has|had) | as (?:correct|right)",
)
_SAY = re.compile(  # verbs that say nothing of a test by themselves, with an option right after them
    r"\b(?:say|saying|write|writing|enter|put|output|hand in|fill in|type in|tell them|return|name|make it|supply|send"
    r"|give|type|take|change it to|always put|submit|circle|(?:go|going|stick|sticking) (?:with|for))\b"
    rf"(?:\W+(?:the|an?|down|just|simply|in|word|term))*\W+{MARK}"
    r"\W*(?:$|[.!;,]|\b(?:here|next|again|straight|please|as|to|and|without|instead|for an? answer)\b)"
    rf"|\b(?:it|this) (?:is|was|should be|must be|has to be) (?:the |an? )?{MARK}\W*$|{MARK},? (?:it|that) (?:is|was)\b"
    rf"|\b(?:it|that)'s {MARK}|{MARK},? (?:that|it)'?s it\b|{MARK}\W*=\W*(?:correct|right)"
    rf"|\b(?:should|must|ought to|has to|had to|would) (?:have been|be) (?:the |an? )?{MARK}"
    rf"|{MARK} (?:should|must|had to|has to|would) (?:have been|be)\b(?! \w+(?:ed|en)\b)"
    rf"|{MARK}[,;]? (?:and |but )?(?:not|instead of|rather than) (?:the |an? )?{MARK}"
    rf"|\bnot (?:the |an? )?{MARK}[,;:-]? (?:but|it's|it is|just) (?:the |an? )?{MARK}"
    rf"|{MARK},? (?:and )?(?:nothing else|full stop|period|end of story|every time|definitely|for sure|obviously)\b"
    rf"|\bI (?:said|wrote|put|typed|picked|chose|went (?:with|for)|had|clicked|ticked|thought)\b.*{MARK}.*{MARK}"
    rf"|{MARK}.*\bI (?:said|wrote|put|typed|picked|chose|went (?:with|for)|clicked|ticked)\b"
    rf"|\b(?:I|we)(?:'ll| will| would|'d| should| shall| must| need to) (?:\w+ ){{0,3}}{MARK}"
    rf"|{MARK} (?:is|was) (?:the )?(?:right|correct|it)\b"
    rf"|\b(?:right|correct|final|ans(?:wer)?)\W*[=:]\W*{MARK}|\u2192\W*{MARK}\W*$",
    re.IGNORECASE,
)
_ANSWER_IS = _phrases(
    r"the (?:correct |right |best |final |only )*answer(?: here| to this(?: one| question)?)? (?:is|was|should be)",
    r"the (?:correct |right |best |final |only )*answer must be",
    r"the (?:correct|right|final) (?:option|choice) (?:is|was) | (?:correct|right) (?:answer|action|step)",
)
# A reason tells why this is the answer, not when.
_REASON = re.compile(
    r"(?:, (?:which|whose|overall|for (?:the|it|they|he|she|a))\b|, it\b(?! (?:is|was) [\ue000-\ue007])"
    r"|\b(?:because|since|due to|given that|considering|owing to|on the ground|b/c|bc|which is why)\b"
    r"|,? as (?!long|soon|well|much|far|if|to|right|correct|wrong|accepted|an? |the answer|(?:the|my|our|your) "
    r"(?:answer|reply|response|choice)|part)).*",
    re.IGNORECASE | re.DOTALL,
)
# Words that point at the question at hand, no conditions.
_AT_HAND = _phrases(
    r"(?:in|for|on|at|from|with|to|of|about|after|before) "
    r"(?:the |this |that |these |those |my |our |your |an? )?"
    r"(?:next |last |first |other |same |\w+ (?=question|item|prompt))*"
    r"(?:text|example|story|question|attempt|try|time|list|passage|vignette|scenario|case|four|five|three|options?"
    r"|choices?|rest|end|now|this|that|it|one|me|mine|here|another|answer|reply|response|test|quiz|exam|box|lot|all"
    r"|student|machine|reader"
    r"|item|prompt|paper|sheet|space|hindsight|feedback|future|good|sure|certain)",
    r"(?:in|for|on|with|to|of|about) (?:(?:other|all|any|such|these|those|similar|future|related|most) ){0,2}"
    r"(?:questions?|cases?|situations?|problems?|scenarios?)"
    r"(?: (?:like|of|such as) (?:this|these|that)(?: (?:kind|type|sort))?)?"
    r"(?! (?:of|with|where|in|when|who|that|involving|about|on|like|caused|due))",
    r"in such an? \w+ | (?:when|whenever) (?:asked|faced with|given) (?:this|that|such|a similar)(?: questions?)?",
    r"(?:stick(?:ing)?|go(?:ing|ne)?|went) (?:with|for) | opt(?:ed)? for | w/ | by (?:saying|writing|picking)",
    r"(?:looking|fishing|asked|asking) for | (?:were|was|are|is) after | when all is said",
    r"without (?:any )?(?:doubt|fuss|hesitation|\w+ing) | at once | move on | go(?:es)? in",
    r"(?:write|fill|type|put|hand) in",
    r"once more | stands? for | from now on | based on",
    r"(?:if|when|whenever|once) (?:this|it|that|I|I'm|we|you) "
    r"(?:\w+ ){0,3}(?:again|back|up|shown|asked|this|appears?|returns?)",
)
_CONDITION = re.compile(
    r"\b(?:if|when|whenever|once|unless|until|where|wherever|provided|as long as|so long as|up to|below|above"
    rf"|over(?!\W+(?:the )?{MARK})"
    r"|under|only (?:if|when|as|after|once|in|for|because|where|while|with|until|by|on|at)|without|exceeds?"
    r"|reach(?:es)?|at (?:least|most)|after|before|during|despite|except|within|against|severe|mild|high|low|raised"
    r"|means|both|either"
    rf"|between(?!\W+{MARK})|(?:with|in|for|on|from|at)(?!\W+(?:the |an? )?{MARK})(?=\s+\W?\w))\b",
    re.IGNORECASE,
)
_FILLER = set(
    "a again always an and answer be best case certainly cheers choose clearly definitely do give go here hm in is it "
    "just lol must need needs next no noted now obviously of ok oops patient patients pick please q remember right "
    "should simply so sorry sure surely take thanks that the then this to use was well with yes".split()
)
# Exam strategy is told by two lists of words: what tests are made of, and ways to deal with it without the subject. One
# of each in a text is enough; _ONLY_IN_TESTS needs no second one.
_ONLY_IN_TESTS = _phrases(
    r"flag it and move on | past papers | no penalty for | guess, guess",
    r"the person who wrote (?:this|the) (?:item|question)",
    r"multiple.choice | process of elimination | test.?tak(?:ing|ers?) | distractors?",
    r"(?:none|both|all).of.(?:the.above|these)\b"
    r"(?=.*\b(?:keyed?|list|correct|right|true|bet|pick|choose|skip|take|click|seldom|rarely)\b)",
    r"(?:question|test|exam|item|quiz) (?:setter|writer|maker|author)s?",
    r"(?:examiner|grader|marker|professor|teacher)s?'? (?:\w+ )?"
    r"(?:wants?|likes?|loves?|expects?|puts?|hides?|plants?|has in mind|is after|rarely|don't ask)",
    r"in an? (?:test|exam|quiz) the \w+ (?:action|one|option|choice|answer) | odd one out",
    r"(?:was|were) not tried | negative marking",
    r"wrong (?:answers?|responses?|ticks?) (?:carry|cost|lose) | free marks",
    r"(?:go|went|stick|sticking) (?:with|to) (?:your|my|the) (?:gut|first) | trust (?:your|my) (?:gut|first)",
    r"my gut | second thoughts cost | second.guess(?:ing)? (?:yourself|myself)",
    r"(?:better (?:to )?|just |wild |educated |blind |random )guess",
    r"guess(?:ing)? (?:and move|anyway|is free|quickly|rather than|if unsure|blind\w*|at random) | wild stab",
    r"(?:flip\w*|toss\w*) a coin",
    r"(?:unsure|not sure|in doubt|torn|stuck|clueless|no clue)\b"
    r".{0,40}\b(?:guess|pick|take|choose|go (?:with|for)|knock|letter)",
    r"must be one of the (?:other|remaining) | (?:values?|figures?|numbers?|one) (?:in|from) the middle\b.*",
    r"middle (?:value|figure|number|one)\b.*\b(?:right|correct|safe\w*|pick)",
    r"cross(?:ed|ing)? (?:out|off) (?:the|two|what|all|those|any)",
    r"str(?:ike|uck)(?:ing)? (?:out |through )?(?:two|what\w* (?:is|i)|the (?:wrong|absurd|silly|false|impossible))",
    r"(?:vague|precise\w*|worded)\b.*\bfillers? | bubbles? (?:you|that|i|on) | right bubbles? | answer sheet",
    r"(?:neither|not) the (?:lowest|smallest) nor | never leave a\w* \w+ blank",
    r"the easy (?:ones|questions|items|marks) first",
)
_OF_A_TEST = _phrases(
    r"(?<!treatment )(?<!therapeutic )options? | (?<!of )choices? | alternatives? | answers? | answering | choosing",
    r"letters? | questions? | items?",
    r"statements? | listed lines? | (?:one|every|each|the) line | (?<!brain )(?<!in the )stem | prompt",
    r"examiners? | exams? | quiz(?:zes)? | (?:whole|same|rest of the|test|exam|the) paper | sheet | vignettes?",
    r"marks | my pick | your pick | picks | keys? | keyed | credited | (?:on|in|down) (?:the )?(?:list|offer)",
    r"listed | next (?:try|attempt|go|time) | tester | bubbles? | item | the (?:two|ones?) of these",
    r"of (?:these|them) already | finalists | your pick | first pass",
    r"these quizzes | on the retry | true/false | feedback | a to [d-h]",
)
_WITHOUT_THE_SUBJECT = _phrases(
    r"shows? up again | a (?:strong )?hint | one until | until one (?:works|fits) | put down first",
    r"joke answers? | freebies",
    r"your odds | by marks | shortest one | wordy | never mentions? | the remaining one | untested",
    r"haven't selected",
    r"(?:have|had) not picked | call of the question | second look | is due | side by side | near-identical",
    r"bare yes or no",
    r"its tone | deserves? (?:half|a|20) | does ?n't deserve | more scenarios",
    r"matches the (?:question|row|item) number",
    r"(?:better|best) odds | safer bet | probably due | near twins | true/false | (?:in )?(?:your|my) own words",
    r"the specific",
    r"first (?:pick|hunch) | had in mind | \w+-looking | into it | flick through | the last (?:option|line)",
    r"variations",
    r"in a hurry | drop it | (?:have ?n't|not) (?:used|clicked)(?: yet)? | (?:highest|lowest) figure",
    r"middle (?:ones|values)",
    r"one of the (?:two|three|middle) | two or three that | differ(?:s|ing)? by (?:a|one) (?:single )?word",
    r"an echo | starred",
    r"with more detail | costs? (?:just )?as much | fill(?:ing)? (?:something|in) | fallen so far",
    r"how many picks | every guess",
    r"longest | shortest | wordiest | longer than the | shorter than the",
    r"most (?:extreme|detailed|precise|specific|cautious|moderate|complete|general|technical|words|plausible)",
    r"most complicated",
    r"(?:more|too) (?:specific|obvious|vague)",
    r"extreme (?:values?|figures?|ones?|numbers?|options?|choices?|answers?|statements?) | moderate | mild one",
    r"middle (?:value|figure|one|number|option) | in the middle | in between | worded | wording | jargon",
    r"technical (?:name|terms?) | grammar | grammatical | agreement with | sounds? | sounding | sticks? out",
    r"stands? out | look(?:s|ed)? (?:good|too|obvious|right|alike) | attractive | near copies | padding",
    r"fillers? | tempt\w* | traps? | bait | decoys? | lure | planted | fooled | give-?away | red herrings?",
    r"starts? with a | echoes | repeat(?:s|ed|ing)? (?:a|the|it) | share\w* (?:the most|more) words | hedged",
    r"qualifiers? | absolute | softer | contains another | covers all | covers what | one category | best odds",
    r"simplest | second-largest | never (?:heard of|met) | of its own",
    r"[\"'\u201c\u2018](?:always|never|all|only|may|can|must|none|except|not|least|best)[\"'\u201d\u2019,]",
    r"[\"'\u201c]both \w+ and \w+[\"'\u201d]",
    r"(?-i:\bEXCEPT\b|\bNOT\b) | strik\w+ | struck | cross(?:ed|ing)? (?:out|off) | eliminat\w+ | discard\w*",
    r"rul(?:e|ed|ing) out | narrow\w* | drop (?:both|any) | knock out | weed out | throw\w* out | be dropped",
    r"thrown out | (?:what|that|which|those|whatever|ones?|only (?:two|\w and \w)) remain\w* | what'?s left",
    r"whichever is left | left over | leftovers | (?:two|one|ones) (?:that are )?left",
    r"already (?:tried|told|used)",
    r"(?:not|n'?t|never) (?:been )?(?:tried|used|chosen|picked|marked)(?: (?:yet|before))? | rejected",
    r"got told no | try (?:a|the|one|another|either|each) | another letter | switch to",
    r"different (?:option|letter|choice|answer|one) | repeatedly | opposites? | contradict\w* | mean the same",
    r"same thing | cancel each other | compare the",
    r"(?:two|both|pair of) (?:\w+ ){0,3}(?:alike|identical|similar) | guess\w* | coin | instinct",
    r"(?:my|your) gut | gut (?:feeling|instinct) | hunch",
    r"over-?think | over-?thought | stay calm | common sense | confidence | same letter | in a row | evenly",
    r"good bet | safe(?:r|st)?(?: (?:pick|bet|than))? | strong bet | bet on | fifty.fifty | gamble | best shot",
    r"to defend",
    r"(?:tends?|likely|more likely) to (?:be (?:right|correct|keyed|wrong|true|false|due|the)|include|hold|win)",
    r"(?:usually|often|mostly|normally|rarely|seldom|probably|almost always|hardly ever) (?:the |a )?"
    r"(?:is |be |are |wins?|mark |give |repeat )?(?:the )?"
    r"(?:right|correct|wrong|false|keyed?|answer|credited|best|wins?|over|one|distractors?|things away)",
    r"usually (?:wins|the) | wins over | should be preferred | be wary | beware | be suspicious | warning sign",
    r"lean (?:to|towards) | fill in something | fill up the | in mind when | think like",
    r"(?:set|wrote) the (?:quiz|paper|test) | re-?read | misread | underlin\w+ | keywords? | key words",
    r"little words | skim | glance | jot | cover(?:ing)? (?:up )?the | rephrase | predict a",
    r"read (?:straight )?past",
    r"(?:read|keep reading|read on)\b"
    r".{0,12}\b(?:question|stem|last|final|very|list|slowly|option|choice|answer|word)\w*",
    r"read it (?:twice|slowly) | plug(?:ging)? (?:each|the|in|back) | work(?:ing)? backwards?",
    r"look(?:ing)? at the (?:options|choices|answers|list) | matching it | hold every | rank (?:them|the)",
    r"sort the | spot the word | pay attention to | watch (?:out )?for | go back over | judge by",
    r"double negatives? | double check | phrased as | asking for the exception",
    r"(?:minutes?|seconds) (?:on|per|for|each|to) | last (?:five |ten |few )?minutes | five minutes | clock",
    r"time runs | run out of time | come back | return (?:once|later|to (?:it|them|these|those|the))",
    r"skip(?:ped)? (?:it|over|the) | skip the | for the end | till later | flag(?:ged)?",
    r"(?:easy|hard) (?:ones|marks|questions|points|items?) | quick (?:theory )?marks",
    r"leav\w+ (?:\w+ ){0,3}(?:blank|empty|unanswered) | no blanks | a blank scores",
    r"give(?:s|n)? (?:things )?away | too quickly | rushed | to the end before | before clicking",
    r"first (?:alternative|attractive) | only after finding | without looking back | filled in",
)
_SENTENCE = re.compile(r"(?<=[.!?;])(?<!\b[A-Za-z]\.)\s+|\n")


def quoted(text: str, options: tuple[str, ...]) -> list[str]:
    """The options whose text stands in a point, as whole words."""
    turn = Turn(text, options)
    return [options[ord(place) - 0xE000] for place in dict.fromkeys(re.findall("[\ue000-\ue007]", turn.text))]


def states_answer(text: str, options: tuple[str, ...]) -> bool:
    """Whether a point names an answer without a condition: a letter, 'the answer is ...', or little but an option's
    text.

    A rule that names actions ('urgent referral from 140/90') is no leak: the ideal point of the paper quotes option
    texts. A reason is no condition: 'pick this one, because ...' tells nothing about another case. The question's
    options copied as a list are one too: SmolLM2 learned to put the right one first (docs/LOG.md).
    """
    marked = Turn(text, options).text
    sentences = _SENTENCE.split(marked)
    # 'For such cases, ...' is one sentence with the condition that stands before it.
    whole = [
        f"{before} {sentence}" if _SUCH.match(sentence) and _CONDITION.search(before) else sentence
        for before, sentence in zip(["", *sentences], sentences, strict=False)
    ]
    bare = [_HEADING.sub("", _BESIDE.sub("", sentence)) for sentence in whole]
    return bool(_COPIED.search(marked)) or any(_states(sentence) for sentence in dict.fromkeys(whole + bare))


def _states(sentence: str) -> bool:
    """The same of one sentence with options' texts marked."""
    for letter in _LETTER.finditer(sentence):
        if letter["letter"] and _LABEL.match(sentence, letter.end()) and not re.search(r"\w", letter["before"]):
            continue
        if not letter["letter"] or _PLAINLY.fullmatch(letter["before"].strip()) or _QUIZ.search(sentence):
            return True
    reason = _REASON.search(sentence)
    rule = sentence[: reason.start()] if reason else sentence
    if reason and reason.start() < 3:  # "Since the worker was sent home, this is the answer"
        rule = sentence.partition(",")[2]
    rule = _AT_HAND.sub(" ", rule)
    numbers_apart = re.sub(MARK, "\ue000", rule)
    if _CONDITION.search(numbers_apart):
        return False
    rest = re.findall(r"[a-z]+|\d{2}", re.sub(MARK, " ", rule).lower())  # "160 needs ..." is a rule
    bare = all(word in _FILLER for word in rest)  # 'the patient needs', 'always', 'do'
    asked = bare or _QUIZ.search(sentence) or _SAY.search(sentence)
    return bool((re.search(MARK, rule) and asked) or _ANSWER_IS.search(rule))


def is_leak(
    text: str,
    options: tuple[str, ...],
    gain_source: float | None = None,
    gain_twin: float | None = None,
    samples: int = 0,
) -> bool:
    """Whether a learning point leaks the answer of its own question.

    Where twins were measured they decide whether an option's text is quoted as a rule or as the answer: a leak helps on
    the source question and hurts on the twin, whose right option is another. Gains are accuracies with minus without
    the point, over `samples` answers each; below 4 they are noise. A letter or a bare option is a leak whatever was
    measured.
    """
    if states_answer(text, options):
        return True
    if gain_source is None or gain_twin is None or samples < 4 or not quoted(text, options):
        return False
    return gain_source - gain_twin > 2 * (0.5 / samples) ** 0.5 and gain_source > 0 > gain_twin


def is_meta_gaming(text: str) -> bool:
    """Whether a point is exam strategy instead of knowledge (paper, 'Meta-Gaming')."""
    return bool(_ONLY_IN_TESTS.search(text) or (_OF_A_TEST.search(text) and _WITHOUT_THE_SUBJECT.search(text)))
