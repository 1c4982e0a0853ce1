"""The sentences that stand for a class."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PromptSet:
    """Templates and names; a class is described by every template with every one of its names.

    Attributes:
        templates: Sentences with one `{}` for the class name.
        negatives: Sentences with one `{}` that say the class is absent; multi-label tasks compare with them.
        names: Other names by class, used instead of the class name itself.
    """

    templates: list[str]
    negatives: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError("PromptSet: templates is empty; give at least one, for example 'a photo of a {}.'")
        for template in (*self.templates, *self.negatives):
            if template.count("{}") != 1:
                raise ValueError(f"PromptSet: template {template!r} needs exactly one {{}} for the class name")
        empty = [name for name, words in self.names.items() if not words]
        if empty:
            raise ValueError(f"PromptSet: names of {empty[0]!r} is an empty list; leave the class out or name it")

    def texts(self, class_name: str) -> list[str]:
        """Sentences that say `class_name` is there."""
        return self._filled(self.templates, class_name)

    def negative_texts(self, class_name: str) -> list[str]:
        """Sentences that say `class_name` is not there."""
        return self._filled(self.negatives, class_name)

    def _filled(self, templates: list[str], class_name: str) -> list[str]:
        return [template.replace("{}", name) for template in templates for name in self._names(class_name)]

    def _names(self, class_name: str) -> list[str]:
        return self.names.get(class_name, [class_name.replace("_", " ")])

    def drawn(self, classes: Sequence[str], count: int, seed: int = 0) -> list[PromptSet]:
        """Up to `count` different prompt sets of one template and one name per class each.

        What a single choice of words would have scored: papers report one ensemble, and users write one sentence.
        """
        source = random.Random(seed)
        found: dict[str, PromptSet] = {}
        # Few templates and names have few combinations: as many draws as would meet nearly all of them.
        for _ in range(20 * count):
            one = PromptSet(
                [source.choice(self.templates)],
                [source.choice(self.negatives)] if self.negatives else [],
                {name: [source.choice(self._names(name))] for name in classes},
            )
            found.setdefault(repr(one), one)
            if len(found) == count:
                break
        return list(found.values())
