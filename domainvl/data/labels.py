"""What a table says about a finding, and what training makes of it.

A -1 means "uncertain" in CheXpert, "not mentioned" in Merlin and "negative" in MedCLIP, so labels are an enum here and
never a number until a stated policy turns them into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, get_args

from domainvl.data.names import hint, listing


class Label(Enum):
    """One finding in one image, as the annotator left it."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    UNCERTAIN = "uncertain"
    BLANK = "blank"


CELLS: Mapping[str, Label] = {
    "1": Label.POSITIVE,
    "0": Label.NEGATIVE,
    "-1": Label.UNCERTAIN,
    "": Label.BLANK,
    "true": Label.POSITIVE,
    "false": Label.NEGATIVE,
    **{label.value: label for label in Label},
}
"""Spellings of a label in a table, lower case; `1.0` reads as `1`."""

NOT_A_NUMBER = frozenset({"nan", "na", "n/a", "null", "none"})
"""Spellings that a program writes for a value it does not have; they are no labels."""

Treatment = Literal["positive", "negative", "ignore"]


def parse_label(cell: str) -> Label:
    """Read one cell; ValueError for what is no label, NaN included."""
    text = cell.strip().lower()
    label = CELLS.get(text.removesuffix(".0"))
    if label is None:
        kind = "NaN" if text in NOT_A_NUMBER else repr(cell.strip()[:20])
        raise ValueError(f"{kind} is no label; labels are 1, 0, -1 (uncertain) or an empty cell")
    return label


@dataclass(frozen=True)
class LabelPolicy:
    """How uncertain and blank labels are used. What is ignored takes part in no loss and no metric.

    Attributes:
        uncertain: What an uncertain label counts as.
        blank: What a blank label counts as.
        uncertain_per_class: Exceptions for uncertain labels, by class.
    """

    uncertain: Treatment = "ignore"
    blank: Treatment = "ignore"
    uncertain_per_class: dict[str, Treatment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {"uncertain": self.uncertain, "blank": self.blank, **self.uncertain_per_class}.items():
            if value not in get_args(Treatment):
                raise ValueError(f"LabelPolicy: {name} is {value!r}; choose positive, negative or ignore")

    @classmethod
    def named(cls, name: str) -> LabelPolicy:
        """A policy by name, see `POLICIES`."""
        if name not in POLICIES:
            raise ValueError(
                f"LabelPolicy: no policy is called {name!r}{hint(name, POLICIES)} There are: {listing(POLICIES)}"
            )
        return POLICIES[name]

    def target(self, label: Label, class_name: str) -> float | None:
        """1, 0, or None where the label is ignored."""
        if label is Label.POSITIVE:
            return 1.0
        if label is Label.NEGATIVE:
            return 0.0
        if label is Label.BLANK:
            treatment: str = self.blank
        else:
            treatment = self.uncertain_per_class.get(class_name, self.uncertain)
        return None if treatment == "ignore" else float(treatment == "positive")

    def targets(self, labels: Sequence[Label], classes: Sequence[str]) -> list[float | None]:
        """`target` for a whole row."""
        return [self.target(label, name) for label, name in zip(labels, classes, strict=True)]


POLICIES: Mapping[str, LabelPolicy] = {
    "ignore": LabelPolicy(),
    # The best policy per class of the CheXpert paper; what a report does not mention counts as absent there.
    "chexpert": LabelPolicy(
        uncertain="ignore",
        blank="negative",
        uncertain_per_class={
            "Atelectasis": "positive",
            "Edema": "positive",
            "Pleural Effusion": "positive",
            "Cardiomegaly": "negative",
            "Consolidation": "negative",
        },
    ),
}
"""Policies by name: `ignore` (the default) and `chexpert` (U-ones and U-zeros of the CheXpert paper)."""

PolicyName = Literal["ignore", "chexpert"]
