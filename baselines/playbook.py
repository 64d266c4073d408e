"""The playbook of Resd: lessons that stay across steps and carry counts of helpful and harmful tags (section 3.2,
appendix D; ACE's form).

    [mis-00007] helpful=2 harmful=0 :: a threshold is reached, not passed

    python -m baselines.playbook runs/bank/resd/playbook.jsonl        # by section, the entries that helped most first

A record (playbook.jsonl) has the keys `id text helpful harmful last_used`; the library of learning points is
introspection/library.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from common import UserError, write
from introspection.library import essence, load_library

SECTIONS = {  # ACE's, and what the ids of their entries begin with
    "strategies and insights": "str",
    "formulas and calculations": "for",
    "code snippets and templates": "cod",
    "common mistakes to avoid": "mis",
    "problem-solving heuristics": "heu",
    "context clues and indicators": "clu",
    "others": "oth",
}


@dataclass
class Entry:
    """A lesson of a playbook; last_used: the context update that added it or that last tagged it helpful or harmful."""

    id: str
    text: str
    helpful: int = 0
    harmful: int = 0
    last_used: int = 0

    @property
    def kind(self) -> str:
        """unused | harmful | helpful; as many harmful tags as helpful ones are net harmful (appendix D)."""
        if not self.helpful + self.harmful:
            return "unused"
        return "helpful" if self.helpful > self.harmful else "harmful"

    def __str__(self) -> str:
        return f"[{self.id}] helpful={self.helpful} harmful={self.harmful} :: {self.text}"


class Playbook:
    """The entries, which all problems share.

    updates: context updates so far, the clock of `last_used`; added: entries ever, so that no id is given twice.
    """

    def __init__(self, entries: list[dict] = (), updates: int = 0, added: int = 0):
        self.entries, self.updates, self.added = [Entry(**entry) for entry in entries], updates, added

    def state(self) -> dict:
        return {"entries": [asdict(entry) for entry in self.entries], "updates": self.updates, "added": self.added}

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))

    def write(self, path: Path) -> None:
        write(path, "".join(json.dumps(asdict(entry)) + "\n" for entry in self.entries))

    def add(self, text: str) -> Entry | None:
        """Adds 'section: lesson', under 'others' without a known section. None if an entry says the same in the same
        order.

        The source only asks its curator for what is new; a small model repeats itself.
        """
        section, _, lesson = text.partition(":")
        prefix = SECTIONS.get(section.strip().lower())
        lesson = lesson.strip() if prefix else text.strip()
        if not lesson or essence(lesson) in {essence(entry.text) for entry in self.entries}:
            return None
        self.added += 1
        self.entries.append(Entry(f"{prefix or 'oth'}-{self.added:05d}", lesson, last_used=self.updates))
        return self.entries[-1]

    def tag(self, tags: dict[str, str]) -> int:
        """Counts {id: helpful | harmful | neutral}.

        Neutral ones and unknown ids change nothing. Returns how many changed an entry.
        """
        tagged = [e for e in self.entries if tags.get(e.id) in ("helpful", "harmful")]
        for e in tagged:
            if tags[e.id] == "helpful":
                e.helpful += 1
            else:
                e.harmful += 1
            e.last_used = self.updates
        return len(tagged)

    def concise(self, strategy: str, every: int, most: int, rng) -> int:
        """Drops entries (Concise) if one of the triggers fires; returns how many. every, most: 0 takes that trigger
        away.

        frequency: every so many updates, without enforcing the budget; limit: more than `most` entries, down to that
        many. prioritized: unused and harmful ones go, then helpful ones at random. staleness: harmful ones and those
        that were never tagged for more than one update go, then the longest unused (of equals the oldest).
        """
        over = bool(most) and len(self.entries) > most
        if not over and not (every and self.updates and self.updates % every == 0):
            return 0
        if strategy == "prioritized":
            kept = [e for e in self.entries if e.kind == "helpful"]
            order = [kept[i] for i in rng.permutation(len(kept))]
        else:
            kept = [
                e
                for e in self.entries
                if e.kind == "helpful" or (e.kind == "unused" and self.updates - e.last_used <= 1)
            ]
            order = sorted(kept, key=lambda e: e.last_used)  # stable, so of equals the oldest comes first
        gone = {e.id for e in order[: max(0, len(kept) - most)]} if over else set()
        before, self.entries = len(self.entries), [e for e in kept if e.id not in gone]
        return before - len(self.entries)


def load_playbook(path: Path) -> list[Entry]:
    """Entries of a playbook.jsonl. Raises UserError for a file that is none."""
    names = tuple(f.name for f in fields(Entry))
    entries = [Entry(*(record[name] for name in names)) for record in load_library(path, names)]
    if any(list(map(type, asdict(e).values())) != [str, str, int, int, int] for e in entries):
        raise UserError(f"{path}: expected id as text, and helpful, harmful and last_used as whole numbers")
    return entries


def listing(entries: list[Entry], top: int) -> str:
    """The entries of a playbook by section, those that helped most first."""
    lines = []
    for name, prefix in SECTIONS.items():
        part = sorted((e for e in entries if e.id.startswith(prefix)), key=lambda e: e.harmful - e.helpful)
        if part:
            lines += ["", f"{name}: {len(part)} entries", *(f"  {e}" for e in part[:top])]
    return "\n".join(lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="playbook", description="read a playbook")
    parser.add_argument("file", type=Path)
    parser.add_argument("--top", type=int, default=20, help="entries shown of each section")
    args = parser.parse_args()
    try:
        print(listing(load_playbook(args.file), args.top) or "no entries")
    except UserError as error:
        print(f"playbook: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
