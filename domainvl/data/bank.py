"""Prompt banks: many sentences about each class, as versioned data with a licence.

A bank is a YAML or JSON file:

    name: chest-findings
    version: 1
    licence: CC0-1.0
    source: who wrote it, and how
    classes:
      Cardiomegaly:
        present: [the heart is enlarged., ...]
        absent: [the heart is of normal size., ...]     only needed where classes may occur together

All lists are equally long: sentence i of all classes is one prompt of the ensemble. Names are compared without case.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from domainvl.data.names import hint, listing

_BUILTIN = "builtin:"
_SHIPPED = Path(__file__).with_name("banks")
_TEXTS = ("name", "licence", "source")
_KEYS = ("name", "version", "licence", "source", "classes")
_LISTS = ("present", "absent")


@dataclass(frozen=True)
class PromptBank:
    """Sentences by class.

    Attributes:
        name: Of the bank.
        version: Raised whenever a sentence changes.
        licence: SPDX name of the licence of the sentences.
        source: Who wrote them, and how.
        present: Sentences that say a class is there, by class.
        absent: Sentences that say it is not there, by class; empty lists where there are none.
    """

    name: str
    version: int
    licence: str
    source: str
    present: Mapping[str, Sequence[str]]
    absent: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, path: str) -> PromptBank:
        """Read a file, or a bank of this package (`builtin:chest-findings`); what is wrong with it is a ValueError."""
        file = Path(path)
        if path.startswith(_BUILTIN):
            shipped = sorted(found.stem for found in _SHIPPED.glob("*.yaml"))
            name = path.removeprefix(_BUILTIN)
            if name not in shipped:
                raise ValueError(f"prompt bank {path!r}: this package has {listing(shipped)}{hint(name, shipped)}")
            file = _SHIPPED / f"{name}.yaml"
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"prompt bank {path}: neither YAML nor JSON: {error}") from None
        return cls._checked(path, content)

    @classmethod
    def _checked(cls, path: str, content: Any) -> PromptBank:
        def refuse(what: str) -> ValueError:
            return ValueError(f"prompt bank {path}: {what}")

        if not isinstance(content, dict) or set(content) != set(_KEYS):
            found = listing(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise refuse(f"it should hold {', '.join(_KEYS)}, and holds {found}")
        for key in _TEXTS:
            if not isinstance(content[key], str) or not content[key].strip():
                raise refuse(f"{key} should be text, got {content[key]!r}")
        if not isinstance(content["version"], int) or content["version"] < 1:
            raise refuse(f"version should be a whole number from 1, got {content['version']!r}")
        classes = content["classes"]
        if not isinstance(classes, dict) or not classes:
            raise refuse(f"classes should map class names to sentences, got {classes!r:.80}")
        lists: dict[str, dict[str, list[str]]] = {key: {} for key in _LISTS}
        for name, groups in classes.items():
            if not isinstance(groups, dict) or not {"present"} <= set(groups) <= set(_LISTS):
                raise refuse(f"class {name!r} should hold `present`, and perhaps `absent`, got {groups!r:.80}")
            for key in _LISTS:
                sentences = groups.get(key, [])
                if not isinstance(sentences, list) or not all(isinstance(s, str) and s.strip() for s in sentences):
                    raise refuse(f"{key} of class {name!r} should be a list of sentences, got {sentences!r:.80}")
                lists[key][str(name)] = sentences
        counts = {len(found) for group in lists.values() for found in group.values() if found}
        if len(counts) != 1 or not all(lists["present"].values()):
            raise refuse(f"all lists should have equally many sentences, got {listing(map(str, sorted(counts)))}")
        return cls(
            name=content["name"],
            version=content["version"],
            licence=content["licence"],
            source=content["source"],
            present=lists["present"],
            absent=lists["absent"],
        )

    @property
    def digest(self) -> str:
        """Twelve hex digits over name, version and all sentences."""
        content = [self.name, self.version, dict(self.present), dict(self.absent)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def texts(self, classes: Sequence[str], negative: bool = False) -> list[list[str]]:
        """The sentences of each class, as many for each; `negative` ones say that it is not there."""
        lists = self.absent if negative else self.present
        folded = {name.casefold().replace("_", " "): sentences for name, sentences in lists.items() if sentences}
        found = [folded.get(name.casefold().replace("_", " ")) for name in classes]
        missing = [name for name, sentences in zip(classes, found, strict=True) if sentences is None]
        if missing:
            kind = "absent" if negative else "present"
            raise ValueError(
                f"prompt bank {self.name!r}: no `{kind}` sentences for {listing(missing)}; it has some for "
                f"{listing(name for name, sentences in lists.items() if sentences)}"
            )
        return [list(sentences) for sentences in found if sentences is not None]
