"""Turns of a conversation as token ids, cut out of a tokenizer's own chat template."""

import re

from jinja2 import TemplateError

from common import UserError

SYSTEM_MARK = "the-system-turn"
THINKING = [("<think>", "</think>"), ("<|channel>", "<channel|>")]


class Chat:
    """Ids of the user turns of a tokenizer's chat template, cut out of one rendered example.

    Template text may hold control tokens; content is encoded with `split_special_tokens`, so that it never does.
    Raises UserError if the template does not keep turn contents verbatim and in order.
    """

    def __init__(self, tokenizer, eos_ids: list[int], system: str = ""):
        self.tokenizer, self.eos_ids, self.preface = tokenizer, set(eos_ids), ""
        marks = ["first-user-turn", "first-model-turn", "second-user-turn"]
        roles = ["user", "assistant", "user"]
        if tokenizer.chat_template is None:
            raise UserError("the tokenizer has no chat template; put a chat_template.jinja into the model's folder")
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = self._render([{"role": "system", "content": SYSTEM_MARK}, *messages]) if system else ""
        if SYSTEM_MARK not in text:  # a template without that role refuses it or drops it
            text, self.preface = self._render(messages), f"{system}\n\n" if system else ""
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                raise UserError(
                    "the chat template does not keep turn contents verbatim, so turns cannot be continued by ids"
                )
            pieces.append(before)
        opening, _, between = pieces
        before, found, after = opening.partition(SYSTEM_MARK)
        self.between, self.closing = self._template_ids(between), self._template_ids(text)
        if self.between[0] in tokenizer.all_special_ids:  # the template's own end of turn ends a sampled turn too
            self.eos_ids.add(self.between[0])
        # Added tokens that are not special (such as </think>) are matched in any text; content is cut inside them.
        added = [re.escape(str(token)) for token in tokenizer.added_tokens_decoder.values() if len(str(token)) > 1]
        self.control = re.compile("|".join(added) or r"(?!)")
        self.opening = (
            self._template_ids(before) + (self.content_ids(system) if found else []) + self._template_ids(after)
        )
        # Ids that open and close a stretch of thinking (Qwen 3, Gemma 4); what stands between them is not the answer.
        known = tokenizer.get_vocab()
        self.thinking = [(known[a], known[b]) for a, b in THINKING if a in known and b in known]
        self.thinks_first = any(
            start in self.closing[self.closing.index(end) + 1 :] if end in self.closing else start in self.closing
            for start, end in self.thinking
        )

    def _render(self, messages: list[dict]) -> str:
        """Templates may print today's date or open a thinking block; a resumed run needs the same prompts tomorrow."""
        fixed = {"date_string": "01 Jan 2026", "enable_thinking": False}
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **fixed)
        except TemplateError as error:
            if messages[0]["role"] == "system":
                return ""
            raise UserError(f"the chat template refuses a conversation of user and assistant turns: {error}") from error

    def _template_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def content_ids(self, text: str) -> list[int]:
        """Ids of text as data: none of them is a control token, whatever the text says."""
        pieces, start = [], 0
        for match in self.control.finditer(text):
            pieces.append(text[start : match.start() + 1])
            start = match.start() + 1
        encode = [
            self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids
            for piece in (*pieces, text[start:])
        ]
        return [token for ids in encode for token in ids]

    def first(self, content: str) -> list[int]:
        """Prompt ids of a fresh conversation: opening, user turn, generation prompt."""
        return self.opening + self.content_ids(self.preface + content) + self.closing

    def next(self, completion_ids: list[int], content: str) -> list[int]:
        """Ids between a sampled turn and the next one.

        They are its terminator unless it was sampled, the user turn, and the generation prompt.
        """
        ended = bool(completion_ids) and completion_ids[-1] in self.eos_ids and completion_ids[-1] == self.between[0]
        return self.between[ended:] + self.content_ids(content) + self.closing

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
        return self.tokenizer.decode(ids, skip_special_tokens=True)
