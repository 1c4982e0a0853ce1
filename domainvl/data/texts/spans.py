"""Where words, sentences and phrases lie in a text: spans of characters, `text[start:end]`.

Words are runs of letters and digits. Hyphens, apostrophes and decimal points inside belong to them: "x-ray",
"patient's", "1.5". Other punctuation belongs to no word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Span = tuple[int, int]

# Letters may carry combining marks, which Python does not count as letters.
_RUN = r"(?:[^\W_]|[\u0300-\u036f])+"
_WORD = re.compile(rf"{_RUN}(?:(?:[-'\u2010\u2011\u2019]|(?<=\d)[.,](?=\d)){_RUN})*")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
# A dot ends a sentence unless it stands in a number or after a single letter or a usual abbreviation.
_STOP = re.compile(r"(?<=[.?!])(?<!\b[A-Za-z]\.)(?<!\b(?:[Dd]r|[Mm]r|[Mm]s|[Vv]s)\.)(?<!\b[Mm]rs\.)\s+(?=[A-Z0-9\"(])")
_NUMBERED = re.compile(r"(?:^|(?<=\s))\d{1,2}[.)]\s+(?=[A-Za-z])")
_LINKS = frozenset(("along", "at", "in", "of", "on", "over", "within"))
_ARTICLES = frozenset(("a", "an", "both", "the"))


@dataclass(frozen=True)
class Lexicon:
    """What a phrase is made of; all in lower case, terms may have several words.

    Attributes:
        findings: Heads of phrases ("effusion", "pleural effusion").
        modifiers: Words that may stand in front of a head or a place ("small", "left", "lower").
        places: Where a finding lies ("lobe", "costophrenic angle"); a phrase may end with one ("in the left lobe").
    """

    findings: Sequence[str]
    modifiers: Sequence[str] = ()
    places: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.findings, str) or not self.findings:
            raise ValueError(f"Lexicon: findings are a list of terms, at least one; got {self.findings!r}")
        for term in (*self.findings, *self.modifiers, *self.places):
            if term != term.lower() or not word_spans(term):
                raise ValueError(f"Lexicon: {term!r} is no term in lower case")


def word_spans(text: str) -> list[Span]:
    """All words, in order. The number of a word in this list is its number everywhere (`TextInputs.words`)."""
    return [found.span() for found in _WORD.finditer(text)]


def sentence_spans(text: str) -> list[Span]:
    """All sentences; decimals ("1.5 cm") and numbered lists do not break in the wrong place, empty lines break."""
    found = []
    for paragraph in _between(text, _PARAGRAPH, (0, len(text))):
        for item in _between(text, _NUMBERED, paragraph):
            for start, end in _between(text, _STOP, item):
                part = text[start:end]
                if part.strip():
                    found.append((start + len(part) - len(part.lstrip()), start + len(part.rstrip())))
    return found


def phrase_spans(text: str, lexicon: Lexicon) -> list[Span]:
    """Findings with the modifiers in front of them and the place behind them.

    "There is a small, loculated pleural effusion in the left lower lobe." has one phrase, "small, loculated ... lobe".
    Nothing but spaces may lie between two words of a phrase, and commas between its modifiers.
    """
    words = word_spans(text)
    names = [text[start:end].lower() for start, end in words]
    gaps = [text[end:start].strip() for (_, end), (start, _) in pairwise(words)]
    heads, places = _terms(lexicon.findings), _terms(lexicon.places)
    modifiers = {name for term in _terms(lexicon.modifiers) for name in term}
    found: list[Span] = []
    at, free = 0, 0
    while at < len(names):
        size = _longest(names, gaps, at, heads)
        if not size:
            at += 1
            continue
        first, last = at, at + size - 1
        while first > free and names[first - 1] in modifiers and gaps[first - 1] in ("", ","):
            first -= 1
        last = _with_place(names, gaps, last, modifiers, places)
        found.append((words[first][0], words[last][1]))
        at = free = last + 1
    return found


def _between(text: str, pattern: re.Pattern[str], span: Span) -> Iterator[Span]:
    """What lies between the matches inside a span, which is seen as a text of its own."""
    base, part = span[0], text[span[0] : span[1]]
    start = 0
    for found in pattern.finditer(part):
        yield base + start, base + found.start()
        start = found.end()
    yield base + start, span[1]


def _terms(terms: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(term[start:end] for start, end in word_spans(term)) for term in terms}


def _longest(names: list[str], gaps: list[str], at: int, terms: set[tuple[str, ...]]) -> int:
    """Number of words of the longest term that begins at word `at`; 0 for none."""
    fitting = (term for term in terms if tuple(names[at : at + len(term)]) == term)
    return max((len(term) for term in fitting if not any(gaps[at : at + len(term) - 1])), default=0)


def _with_place(names: list[str], gaps: list[str], last: int, modifiers: set[str], places: set[tuple[str, ...]]) -> int:
    """The last word of a phrase with "in the left lower lobe" and the like behind it."""
    at = last + 1
    if at >= len(names) or names[at] not in _LINKS or gaps[last]:
        return last
    at += 1
    while at < len(names) and not gaps[at - 1]:
        size = _longest(names, gaps, at, places)
        if size:
            return at + size - 1
        if names[at] not in modifiers and names[at] not in _ARTICLES:
            return last
        at += 1
    return last
