"""The model card of a saved adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from domainvl.backbones.base import BackboneSpec
from domainvl.hub.card import AdapterCard

_PATH = re.compile(r"^(?:~|/|file:|[A-Za-z]:[\\/]|\\\\)")
_SHOWN_CLASSES = 40

_BODY = """
# {title}

A [domainvl](https://github.com/domainvl/domainvl) adapter: {adapter} on top of {base}, which it needs and does not
contain. {does}

{results}{data}
## Use

```python
import domainvl
model = domainvl.load("USER/NAME")  # or the folder
{use}
```

Intended for research on images like those it was trained on. First of all, measure it on your own labelled data:

```
python -m domainvl test recipe.yaml --adapter FOLDER
```

`recipe.yaml` is how it was made; give your own data with `--data.root DIR`. A backbone with other weights or with
another preprocessing preset is refused.

## Limits

A research artefact, not a medical device. Its numbers, where given, are for that data alone; measure it on
yours before you believe it: scanners, patients and labels of another place change them.
"""


def without_paths(recipe: str) -> str:
    """The recipe with every absolute path replaced: folders name people, hospitals and machines."""
    values = yaml.safe_load(recipe)
    if not isinstance(values, dict):
        raise ValueError(f"save_adapter: the recipe should be a YAML mapping, got {type(values).__name__}")
    return yaml.safe_dump(_cleaned(values), sort_keys=False, allow_unicode=True)


def hub_id(backbone: BackboneSpec) -> str | None:
    """The backbone's repository on the Hub; None for a local folder or the built-in model."""
    name = backbone.name.removeprefix("hf-hub:")
    return name if name.count("/") == 1 and not name.startswith(("/", "builtin:")) else None


def model_card(
    card: AdapterCard,
    recipe: str,
    metrics: Mapping[str, Any] | None,
    facts: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """README.md with its YAML head.

    Args:
        card: The adapter.
        recipe: How it was made, without paths.
        metrics: `metrics.json` of the run.
        facts: `run.json` of the run; counts alone are taken from it.
        licence: Of the model below, as the Hub calls it; what is derived from a model stays under its terms.
    """
    from huggingface_hub import EvalResult, ModelCardData

    base = hub_id(card.backbone)
    data = _data_name(recipe)
    method = _method(card)
    title = f"{method} for {data}"
    results = None
    if metrics is not None and metrics["adapted"] is None:
        metrics = None  # a zero-shot run has nothing to say about the adapter
    if metrics is not None:
        results = [
            EvalResult(
                task_type="zero-shot-image-classification",
                dataset_type=data,
                dataset_name=data,
                dataset_split=str(metrics["split"]),
                metric_type=name,
                metric_value=value["value"],
                metric_args=None if value["low"] is None else {"interval_95": [value["low"], value["high"]]},
            )
            for name, value in metrics["adapted"].items()
            if value["value"] is not None
        ]
    head = ModelCardData(
        model_name=title,
        base_model=base,
        base_model_relation="adapter" if base else None,
        base_model_revision=card.backbone.revision if base else None,
        license=licence,
        library_name="domainvl",
        pipeline_tag="zero-shot-image-classification" if card.classes else "image-feature-extraction",
        tags=["domainvl", card.adapter.lower(), "few-shot"],
        eval_results=results,
    )
    body = _BODY.format(
        title=title,
        adapter=method,
        base=f"[{base}](https://huggingface.co/{base})" if base else f"`{card.backbone.name}`",
        does=_does(card),
        use=_use(card),
        results="" if metrics is None else _table(metrics),
        data="" if facts is None or facts.get("data") is None else _counts(facts["data"]),
    )
    return f"---\n{head.to_yaml()}\n---\n{body}"


def _method(card: AdapterCard) -> str:
    """The adapter's name; of several together the names of all."""
    parts = card.init_args.get("adapters") if card.adapter == "Compose" else None
    return " and ".join(part["class_path"] for part in parts) if parts else card.adapter


def _does(card: AdapterCard) -> str:
    if not card.classes:
        return "It puts images and texts into one space and names no classes."
    names, more = ", ".join(card.classes[:_SHOWN_CLASSES]), len(card.classes) - _SHOWN_CLASSES
    together = " that may occur together" if card.multilabel else ""
    return f"It scores {len(card.classes)} classes{together}: {f'{names} and {more} more' if more > 0 else names}."


def _use(card: AdapterCard) -> str:
    """The third line of Python, for what the adapter was trained on."""
    file = "scan.nii.gz" if "crop" in card.preparation else "image.png"
    if not card.classes:
        return f'model.embed_image(["{file}"]) @ model.embed_text(["a sentence of a report"]).T  # cosines'
    if "tiles" in card.preparation:
        return 'model.predict(["slide.h5"])  # tile features, from `python -m domainvl embed recipe.yaml`'
    return f'model.predict(["{file}"])  # probabilities of model.classes'


def _table(metrics: Mapping[str, Any]) -> str:
    lines = [
        f"Measured on the {metrics['split']} split, with 95 % intervals:",
        "",
        "| metric | zero-shot | adapted |",
        "|---|---|---|",
    ]
    for name, value in metrics["adapted"].items():
        before = metrics["zero_shot"].get(name)
        lines.append(f"| {name} | {_interval(before) if before else ''} | {_interval(value)} |")
    return "\n".join(lines) + "\n"


def _counts(data: Mapping[str, Any]) -> str:
    """How much data there was: numbers and names of classes, never a path, a name of a file or a patient."""
    shots = "all labels" if data["shots"] is None else f"{data['shots']} labelled patients per class"
    lines = ["", "## Data", "", f"Trained with {shots}.", "", "| split | images | patients |", "|---|---|---|"]
    lines += [f"| {name} | {split['images']} | {split['patients']} |" for name, split in data["splits"].items()]
    return "\n".join(lines) + "\n"


def _interval(value: Mapping[str, Any]) -> str:
    numbers = [value["value"], value["low"], value["high"]]
    middle, low, high = ("n/a" if number is None else f"{number:.3f}" for number in numbers)
    return f"{middle} ({low} to {high})"


def _data_name(recipe: str) -> str:
    """The data module's class, the only thing a card tells of the data."""
    data = yaml.safe_load(recipe).get("data")
    if isinstance(data, dict) and isinstance(data.get("class_path"), str):
        return str(data["class_path"]).rsplit(".", 1)[-1]
    return "unnamed data"


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, str) and _PATH.match(value):
        return "PATH"
    return value
