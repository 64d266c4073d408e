"""Turns of a conversation as token ids, by the tokenizer's own chat template.

What a template cannot do right is refused by name: no turn here is almost what the template would write.
"""

import datetime
import re

from jinja2 import TemplateError

from common import UserError

MARKS = ("first-user-turn", "first-model-turn", "second-user-turn")
SYSTEM_MARK = "the-system-turn"
THINKING = [("<think>", "</think>"), ("<|channel>", "<channel|>"), ("[THINK]", "[/THINK]")]
CHANNELS = "<|channel|>"  # of harmony: one answer is several turns there
TODAY = datetime.date(2026, 1, 1)  # in every prompt that says the date: a run resumed tomorrow has today's prompts
CUT = "\ue000"  # a character of nobody's, where a text that would be a control token is cut in two
_ASKS_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


class Chat:
    """Ids of the turns of a tokenizer's chat template.

    `end` ends a model turn, `eos_ids` are all ids that do. Text is data: whatever it says, none of its ids is a control
    token. thinking: whether the template is asked for thoughts (Qwen 3, Gemma 4). Raises UserError where the template
    does not keep turns as they were, so that a conversation could not be continued by ids.
    """

    def __init__(self, tokenizer, eos_ids: list[int], system: str = "", thinking: bool = False):
        self.tokenizer, self.eos_ids, self.system, self.preface = tokenizer, set(eos_ids), [], ""
        self.controls: dict[int, int] = {}  # control tokens of a template's own, by number of turns
        if tokenizer.chat_template is None:
            raise UserError("the tokenizer has no chat template; put a chat_template.jinja into the model's folder")
        if CHANNELS in tokenizer.get_vocab():
            raise UserError(f"the chat template answers in channels ({CHANNELS}, as gpt-oss): a turn is several there")
        self.fixed = {
            "date_string": TODAY.strftime("%d %b %Y"),
            "enable_thinking": thinking,
            "chat_template": template_of_one_day(tokenizer.get_chat_template()),
        }
        # Added tokens, special or not (such as </think>); runs of spaces and lines are text (Gemma).
        added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        self.control_ids = {i for i, token in added.items() if len(token) > 1 and not token.isspace()}
        longest_first = sorted((added[i] for i in self.control_ids), key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        if system:
            self._place(system)
        self._find_end()
        # Ids that open and close a stretch of thinking (Qwen 3, Gemma 4); what stands between them is not the answer.
        known = tokenizer.get_vocab()
        self.thinking = [(known[a], known[b]) for a, b in THINKING if a in known and b in known]
        self.thinks_first = bool(self.close_thought([], self.first("")))

    # ---- what the template does --------------------------------------------------------------------------------------
    def _place(self, system: str) -> None:
        """Where a system prompt goes: its role, or in front of the first user turn where the template has none, drops
        it, or puts it elsewhere (Mistral: into the last user turn).
        """
        opening = ""
        try:
            text = self._render([SYSTEM_MARK], MARKS)
            opening = text.partition(MARKS[0])[0] if text.count(SYSTEM_MARK) == 1 else ""
        except TemplateError:
            pass
        if SYSTEM_MARK in opening:
            self.system = [self.data(system)]
        else:
            self.preface = f"{system}\n\n"

    def _find_end(self) -> None:
        """Finds `end` and what stands before the second user turn; refuses what is not kept as it was."""
        try:
            whole, first = self._render(self.system, MARKS), self._render(self.system, MARKS[:1])
        except TemplateError as error:
            raise UserError(f"the chat template refuses a conversation of user and assistant turns: {error}") from error
        pieces, rest = [], whole
        for mark in MARKS:
            before, found, rest = rest.partition(mark)
            if not found:
                raise UserError(
                    "the chat template does not keep turn contents verbatim, so turns cannot be continued by ids"
                )
            pieces.append(before)
        # The first turn must stand in the whole as it stood alone, and the model's as it is asked for, thoughts apart.
        opening, asked = first.partition(MARKS[0])[::2]
        if pieces[0] != opening or without_thoughts(pieces[1]) != without_thoughts(asked):
            raise UserError("the chat template changes earlier turns, so turns cannot be continued by ids")
        ended = self.control.search(pieces[2])
        if ended is None or pieces[2][: ended.start()].strip():
            raise UserError("the chat template ends a model turn with no control token, so turns cannot be told apart")
        self.end = self.tokenizer.convert_tokens_to_ids(ended.group())
        self.eos_ids.add(self.end)  # the template's own end of turn ends a sampled turn too
        self.before_next = self._encode(pieces[0] + MARKS[0] + pieces[1] + MARKS[1] + pieces[2][: ended.end()])

    def _render(self, system: list[str], contents: tuple[str, ...]) -> str:
        """The text of a conversation up to the model's turn; contents: of user and model in turn."""
        messages = [{"role": "system", "content": text} for text in system]
        messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **self.fixed)

    def _encode(self, text: str) -> list[int]:
        """Ids of a rendering, cut where its data would have become a control token."""
        pieces = [piece for piece in text.split(CUT) if piece]
        return [token for piece in pieces for token in self.tokenizer(piece, add_special_tokens=False).input_ids]

    def _ids(self, *contents: str) -> list[int]:
        """Ids of a conversation's rendering, whatever its contents say."""
        ids = self._encode(self._render(self.system, tuple(map(self.data, contents))))
        if len(contents) not in self.controls:
            self.controls[len(contents)] = self._count(self._encode(self._render(self.system, MARKS[: len(contents)])))
        if self._count(ids) != self.controls[len(contents)]:
            # A tokenizer that rewrites text found a control token in it after all: each character for itself. What
            # stands before are marks of ours, whose ids `next` counts on.
            apart = (*contents[:-1], CUT.join(self.data(contents[-1])))
            ids = self._encode(self._render(self.system, apart))
        return ids

    def _count(self, ids: list[int]) -> int:
        return sum(token in self.control_ids for token in ids)

    # ---- text as data ------------------------------------------------------------------------------------------------
    def data(self, text: str) -> str:
        """Text whose control tokens are cut after their first character; half a surrogate pair is no character."""
        text = text.replace(CUT, "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self.control.sub(lambda found: found.group()[0] + CUT + found.group()[1:], text)

    def content_ids(self, text: str) -> list[int]:
        """Ids of text as data: none of them is a control token, whatever the text says."""
        return self._encode(self.data(text))

    # ---- turns -------------------------------------------------------------------------------------------------------
    def first(self, content: str) -> list[int]:
        """Prompt ids of a fresh conversation: one whole rendering of it, up to the model's turn."""
        return self._ids(self.preface + content)

    def opening(self) -> list[int]:
        """Ids of a conversation up to the first word of its user: from there a model goes on as one would."""
        return self._encode(self._render(self.system, MARKS[:1]).partition(MARKS[0])[0] + self.data(self.preface))

    def words_after_user(self) -> str:
        """What stands behind a user's turn before any control token: '[/INST]' in Llama 2's template, none in most."""
        return self.control.split(self._render(self.system, MARKS[:1]).partition(MARKS[0])[2])[0].strip()

    def next(self, completion_ids: list[int], content: str) -> list[int]:
        """Ids between a sampled turn and the next one: its terminator unless it was sampled, the user turn, and the
        generation prompt, as they stand in the rendering of a conversation.

        Raises UserError where what stands before them is not what it was.
        """
        ids = self._ids(MARKS[0], MARKS[1], content)
        if ids[: len(self.before_next)] != self.before_next:
            raise UserError("the chat template writes earlier turns by what comes after them, so turns cannot be cut")
        ended = bool(completion_ids) and completion_ids[-1] == self.end
        return ([] if ended else [self.end]) + ids[len(self.before_next) :]

    def close_thought(self, ids: list[int], prompt_ids: list[int] | None = None) -> list[int]:
        """What ends the thought that is open after these ids of a model turn; none where none is open.

        prompt_ids: of what stands before the turn; without them, the thought that every prompt may have opened.
        """
        said = (prompt_ids or []) + ids
        if prompt_ids is None and self.thinks_first:
            said = self.first("") + ids
        for start, end in self.thinking:
            if start in said and end not in said[len(said) - said[::-1].index(start) :]:
                return [end, *self.content_ids("\n\n")]
        return []

    def turn(self, text: str) -> list[int]:
        """Ids of a model turn that says this, as if it had been sampled: after the end of a thought that the prompt
        opened, up to the terminator.
        """
        return [*self.close_thought([]), *self.content_ids(text), self.end]

    def text(self, ids: list[int]) -> str:
        """What a turn says, without control tokens and without thinking.

        A thought that was cut off leaves nothing after it.
        """
        if self.thinks_first and not any(end in ids for _, end in self.thinking):
            return ""  # the prompt opened a thought, and it never ended
        for start, end in self.thinking:
            while start in ids or end in ids:
                closed = ids.index(end) if end in ids else len(ids)
                opened = ids.index(start) if start in ids[:closed] else 0  # a template may have opened it in the prompt
                ids = ids[:opened] + ids[closed + 1 :]
        return without_written_thoughts(self.tokenizer.decode(ids, skip_special_tokens=True))


def template_of_one_day(template: str) -> str:
    """A template that says TODAY wherever it would say the date. Raises UserError where that cannot be seen from it."""
    fixed = _ASKS_TODAY.sub(lambda found: repr(TODAY.strftime(found.group(2))), template)
    if "strftime_now(" in fixed:
        raise UserError("the chat template writes today's date in a way that cannot be fixed; edit its strftime_now")
    return fixed


def without_written_thoughts(text: str) -> str:
    """A turn without the thoughts that a model wrote letter by letter, because its vocabulary has no token for them."""
    for start, end in THINKING:
        if start in text or end in text:
            text = re.sub(rf"{re.escape(start)}.*?(?:{re.escape(end)}|\Z)", "", text, flags=re.DOTALL)
            text = text.rpartition(end)[2]  # the prompt had opened it
    return text


def without_thoughts(text: str) -> str:
    """A template's text without thoughts, empty or only opened, and without the space around what is left."""
    for start, end in THINKING:
        text = re.sub(
            rf"{re.escape(start)}(?:(?!{re.escape(end)}).)*(?:{re.escape(end)}|\Z)", "", text, flags=re.DOTALL
        )
    return text.strip()
