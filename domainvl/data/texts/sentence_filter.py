"""Sentences of pathology reports that an H&E slide can show.

A report speaks of much that no model can see in the picture: stains of other slides, mutations, history, the specimen
itself. A model that learns to write such sentences invents them (Lucassen et al., arXiv 2502.19285, who drop three
sentences in ten and see fewer invented ones). Rules are data: a YAML file with labels, patterns and a version. Anything
that gives sentences labels can stand in their place (`Tagger`), for instance a trained model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from domainvl.data.texts.reports import sentences

OTHER = "other"
"""The label of a sentence that no rule knows; it is dropped."""

_BUILTIN = "builtin:"
_SHIPPED = Path(__file__).with_name("filters")
_KEYS = {"name", "version", "licence", "source", "keep", "labels"}


class Tagger(Protocol):
    """What says which label a sentence has, and which labels are kept."""

    @property
    def keep(self) -> frozenset[str]:
        """Labels of sentences that stay."""

    def __call__(self, texts: Sequence[str]) -> Sequence[str]:
        """One label per sentence, sentences in the order of their report."""


@dataclass(frozen=True)
class SentenceRules:
    """Labels by patterns: the first label that has one in the sentence.

    Attributes:
        name: Of the rules.
        version: Raised whenever a pattern changes.
        keep: See `Tagger`.
        patterns: By label, in the order in which they are tried.
    """

    name: str
    version: int
    keep: frozenset[str]
    patterns: Mapping[str, Sequence[re.Pattern[str]]] = field(repr=False)

    @classmethod
    def read(cls, path: str = "builtin:pathology") -> SentenceRules:
        """Read a file, or rules of this package (`builtin:pathology`); what is wrong with it is a ValueError."""
        file = _SHIPPED / f"{path.removeprefix(_BUILTIN)}.yaml" if path.startswith(_BUILTIN) else Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"SentenceRules: there is no file {file}; builtin:pathology is shipped")
        given: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(given, dict) or set(given) != _KEYS:
            raise ValueError(f"SentenceRules: {file.name} needs exactly the keys {', '.join(sorted(_KEYS))}")
        patterns = {label: _compiled(label, rules, file.name) for label, rules in given["labels"].items()}
        unknown = set(given["keep"]) - set(patterns)
        if unknown:
            raise ValueError(f"SentenceRules: {file.name} keeps {', '.join(sorted(unknown))}, which is no label in it")
        return cls(str(given["name"]), int(given["version"]), frozenset(given["keep"]), patterns)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """See `Tagger`."""
        return [
            next((label for label, rules in self.patterns.items() if any(rule.search(text) for rule in rules)), OTHER)
            for text in texts
        ]


def _compiled(label: str, rules: Any, name: str) -> list[re.Pattern[str]]:
    if not isinstance(rules, dict) or not set(rules) <= {"patterns", "case"} or not rules.get("patterns"):
        raise ValueError(f"SentenceRules: {name}: label {label!r} needs a list `patterns`, and may have a list `case`")
    try:
        loose = [re.compile(rf"(?<!\w)(?:{one})(?!\w)", re.IGNORECASE) for one in rules["patterns"]]
        exact = [re.compile(rf"(?<!\w)(?:{one})(?!\w)") for one in rules.get("case", [])]
    except re.error as error:
        raise ValueError(f"SentenceRules: {name}: label {label!r} has a pattern that is none: {error}") from error
    return loose + exact


class Audit:
    """How many sentences of which label were seen, and what became of them; holds no text.

    Args:
        keep: Labels that are kept.
    """

    def __init__(self, keep: frozenset[str]) -> None:
        self.keep = keep
        self.counts: Counter[str] = Counter()

    def __str__(self) -> str:
        kept = sum(count for label, count in self.counts.items() if label in self.keep)
        rows = [
            f"{label:<12} {count:>8} {'kept' if label in self.keep else 'dropped'}"
            for label, count in self.counts.most_common()
        ]
        return "\n".join([*rows, f"{'all':<12} {sum(self.counts.values()):>8} {kept} kept"])


def filtered(text: str, tagger: Tagger, audit: Audit | None = None) -> str:
    """The sentences of a text that are kept, one after the other."""
    parts = sentences(text)
    labels = tagger(parts)
    if len(labels) != len(parts):
        raise ValueError(f"{type(tagger).__name__} gave {len(labels)} labels for {len(parts)} sentences")
    if audit is not None:
        audit.counts.update(labels)
    return " ".join(part for part, label in zip(parts, labels, strict=True) if label in tagger.keep)


@dataclass(frozen=True)
class FilterScore:
    """How well sentences are kept and dropped.

    Attributes:
        precision: Share of what is kept that should be.
        recall: Share of what should be kept that is.
        right: By true label, how many sentences are kept or dropped as they should, and how many there are.
    """

    precision: float
    recall: float
    right: Mapping[str, tuple[int, int]]

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.precision * self.recall / (self.precision + self.recall or 1.0)


def score(
    tagger: Callable[[Sequence[str]], Sequence[str]], texts: Sequence[str], truth: Sequence[str], keep: frozenset[str]
) -> FilterScore:
    """Score kept against dropped on sentences whose labels are known.

    Args:
        tagger: What is scored.
        texts: Sentences.
        truth: Their labels.
        keep: Labels that should be kept.
    """
    found = [label in keep for label in tagger(texts)]
    wanted = [label in keep for label in truth]
    both = sum(one and other for one, other in zip(found, wanted, strict=True))
    right: dict[str, tuple[int, int]] = {}
    for label, one, other in zip(truth, found, wanted, strict=True):
        hits, total = right.get(label, (0, 0))
        right[label] = (hits + (one == other), total + 1)
    return FilterScore(both / max(sum(found), 1), both / max(sum(wanted), 1), right)
