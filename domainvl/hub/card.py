"""`domainvl.json`: which method a folder holds, and what it belongs to. It may come from anyone, so it is input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import domainvl
from domainvl import adapters
from domainvl.adapters.base import Adapter
from domainvl.backbones.base import BackboneSpec
from domainvl.data.prompts import PromptSet
from domainvl.hub.untrusted import inner_file, read_json

FORMAT_VERSION = 2
CARD = "domainvl.json"
_MOST_BYTES, _MOST_PROMPTS = 4 * 2**20, 2_000_000


@dataclass(frozen=True)
class AdapterCard:
    """What `domainvl.json` says.

    Attributes:
        adapter: Name of the method, one that `domainvl.adapters` exports.
        init_args: Arguments of its constructor.
        backbone: The model it was trained on, with the digests of weights and preset.
        classes: Class names in the order of the training.
        multilabel: Whether classes may occur together.
        prompts: Templates, negatives and names, see `domainvl.data.prompts.PromptSet`.
        versions: Of domainvl and of the libraries it stands on.
        model: How the backbone is made again, see `domainvl.hub.rebuild`; empty in folders of format 1.
        preparation: What the data module did in front of the backbone, see `DataModule.preparation_facts`.
        format_version: Of the folder.
    """

    adapter: str
    init_args: dict[str, Any]
    backbone: BackboneSpec
    classes: list[str]
    multilabel: bool
    prompts: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, Any] = field(default_factory=dict)
    preparation: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def prompt_set(self) -> PromptSet:
        """The prompts, checked."""
        return PromptSet(**self.prompts)

    def build(self) -> Adapter:
        """The method with its arguments, not yet attached."""
        return make_adapter(self.adapter, self.init_args)

    def check(self, backbone: BackboneSpec) -> None:
        """Raise unless `backbone` is the model that the adapter was trained on, prepared in the same way."""
        made_for, got = self.backbone, backbone
        if made_for.weights != got.weights:
            raise ValueError(
                f"this {self.adapter} adapter was trained on {_named(made_for)}, but the backbone is {_named(got)}; "
                f"give {made_for.kind} with name {made_for.name!r}"
            )
        if made_for.preset != got.preset:
            raise ValueError(
                f"this {self.adapter} adapter was trained on {_named(made_for)} with the preprocessing preset "
                f"{made_for.preset}, but {_named(got)} here has {got.preset}; use the checkpoint's own "
                "preprocessing files"
            )
        if made_for.reading != got.reading:
            raise ValueError(
                f"this {self.adapter} adapter was trained on texts read by {made_for.reading or 'the checkpoint'}, but "
                f"the backbone here reads {got.reading or 'as the checkpoint says'}; give {made_for.kind} the same "
                "pooling, context, instruction and causal"
            )


def make_adapter(name: str, init_args: Mapping[str, Any]) -> Adapter:
    """The method called `name` with what its `config()` gave; parts of a `Compose` are made in the same way.

    Names are looked up among those that `domainvl.adapters` exports; nothing else is ever imported.
    """
    if name == "Adapter" or name not in adapters.__all__:
        known = sorted(set(adapters.__all__) - {"Adapter"})
        raise ValueError(
            f"{CARD} names the adapter {name!r}; known are {', '.join(known)}. Adapters are found in "
            "domainvl.adapters alone, nothing that a folder names is imported"
        )
    arguments = {key: _with_parts(value) for key, value in init_args.items()}
    try:
        made: Adapter = getattr(adapters, name)(**arguments)
    except TypeError as error:
        raise ValueError(f"{CARD}: {name} does not take the arguments {', '.join(init_args)}: {error}") from None
    return made


def _with_parts(value: Any) -> Any:
    """A list of described adapters becomes a list of adapters; anything else stays as it is."""
    described = isinstance(value, list) and all(
        isinstance(item, dict) and set(item) == {"class_path", "init_args"} for item in value
    )
    if not described:
        return value
    for item in value:
        if not isinstance(item["class_path"], str) or not isinstance(item["init_args"], dict):
            raise ValueError(f"{CARD}: a part should have a name and arguments, got {item}")
    return [make_adapter(item["class_path"], item["init_args"]) for item in value]


def read_adapter_card(folder: Path | str) -> AdapterCard:
    """Read and check `domainvl.json`."""
    folder = Path(folder)
    path = folder / CARD
    if not path.is_file():
        there = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else None
        if there and "adapter_config.json" in there:
            raise ValueError(
                f"{folder} is a plain PEFT adapter without {CARD}: it does not say which classes, prompts and "
                "preprocessing it belongs to, so it cannot be used here; load it with peft"
            )
        state = "is not a folder" if there is None else f"has no {CARD}; it has {there}"
        raise ValueError(f"no adapter: {folder} {state}. A run writes its own to RUN/adapter")
    values = read_json(inner_file(folder, CARD), _MOST_BYTES)
    return _parsed(path, values)


def _named(spec: BackboneSpec) -> str:
    revision = f" at {spec.revision[:8]}" if spec.revision else ""
    return f"{spec.kind}({spec.name!r}{revision}, weights {spec.weights})"


def _parsed(path: Path, values: Any) -> AdapterCard:
    """Plain JSON to a card; the file may hold anything."""
    if not isinstance(values, dict) or not isinstance(values.get("format_version"), int):
        raise ValueError(f"{path} is no adapter description: it needs a number `format_version`")
    if values["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {values['format_version']}, this domainvl {domainvl.__version__} reads up to "
            f"{FORMAT_VERSION}; it was written by a newer one: pip install -U domainvl"
        )
    kinds = {
        "adapter": str,
        "init_args": dict,
        "backbone": dict,
        "classes": list,
        "multilabel": bool,
        "prompts": dict,
        "versions": dict,
        "model": dict,
        "preparation": dict,
    }
    if values["format_version"] == 1:
        values = {"model": {}, "preparation": {}} | values
    for name, kind in kinds.items():
        if not isinstance(values.get(name), kind):
            raise ValueError(f"{path}: {name!r} should be a {kind.__name__}, got {values.get(name)!r}")
    unknown = sorted(set(values) - {*kinds, "format_version"})
    if unknown:
        raise ValueError(f"{path} says {', '.join(unknown[:5])}, which format {FORMAT_VERSION} does not have")
    classes = values["classes"]
    if not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path}: 'classes' should hold names, got {classes[:5]}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"{path}: 'classes' should hold different names, got {classes[:5]}")
    _check_prompts(path, values["prompts"], len(classes))
    known = {one.name for one in fields(BackboneSpec)}
    # Folders of before do not say how texts are read.
    spec = {"reading": ""} | values["backbone"]
    texts = {key: value for key, value in spec.items() if key != "revision" or value is not None}
    if set(spec) != known or not all(isinstance(value, str) for value in texts.values()):
        raise ValueError(f"{path}: 'backbone' should hold {', '.join(sorted(known))}, got {spec}")
    if values["model"] and values["model"].get("class_path") != spec["kind"]:
        raise ValueError(f"{path}: 'model' describes another class than 'backbone', which is a {spec['kind']}")
    parsed = {name: values[name] for name in kinds} | {"backbone": BackboneSpec(**spec)}
    return AdapterCard(**parsed, format_version=values["format_version"])


def _check_prompts(path: Path, prompts: dict[str, Any], classes: int) -> None:
    """Raise unless these are the arguments of a `PromptSet` that a text tower can read in reasonable time, or none."""
    if not prompts:
        return
    lists = [prompts.get("templates"), prompts.get("negatives", []), *_lists(prompts.get("names", {}))]
    if not set(prompts) <= {"templates", "negatives", "names"} or not all(_are_texts(one) for one in lists):
        raise ValueError(
            f"{path}: 'prompts' should hold lists of texts: templates, negatives, and names by class; got "
            f"{', '.join(prompts)}"
        )
    most = max((len(one) for one in lists[2:] if one is not None), default=1)
    count = classes * most * sum(len(one) for one in lists[:2] if one is not None)
    if count > _MOST_PROMPTS:
        raise ValueError(f"{path}: 'prompts' makes {count:,} sentences; at most {_MOST_PROMPTS:,} are read")
    PromptSet(**prompts)


def _lists(names: Any) -> list[Any]:
    """The values of a map; one thing that is no list where there is no map."""
    return list(names.values()) if isinstance(names, dict) else [None]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
