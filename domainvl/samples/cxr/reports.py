"""Reports in the manner of a hospital archive, whose every word agrees with labels and pixels."""

from __future__ import annotations

import numpy as np

from domainvl.samples.cxr.cases import FINDINGS, Label, Lesion, Study

_EFFUSION_WORDS = ("small", "moderate", "large")
_PLAIN_WORDS = ("mild", "moderate", "severe")

_NEGATIVE = {
    "Cardiomegaly": (
        "The heart size is normal.",
        "The cardiac silhouette is within normal limits.",
        "No cardiomegaly is seen.",
    ),
    "Pleural Effusion": (
        "No pleural effusion is seen.",
        "The costophrenic angles are sharp, without pleural effusion.",
        "There is no evidence of pleural effusion.",
    ),
    "Pneumothorax": (
        "There is no pneumothorax.",
        "No pneumothorax is identified.",
        "No evidence of pneumothorax.",
    ),
    "Consolidation": (
        "No focal consolidation is present.",
        "The lungs are free of consolidation.",
        "There is no evidence of consolidation.",
    ),
    "Lung Lesion": (
        "No pulmonary nodule is seen.",
        "There is no lung lesion.",
        "No suspicious nodule is identified.",
    ),
}
_UNCERTAIN = {
    "Cardiomegaly": ("Borderline heart size, possible cardiomegaly.", "Cardiomegaly cannot be excluded."),
    "Pleural Effusion": ("A trace pleural effusion is possible.", "A pleural effusion cannot be excluded."),
    "Pneumothorax": ("A tiny pneumothorax cannot be excluded.", "Possible apical pneumothorax, equivocal."),
    "Consolidation": (
        "A faint opacity may represent early consolidation.",
        "An early consolidation cannot be excluded.",
    ),
    "Lung Lesion": (
        "A questionable nodular density is noted.",
        "A small pulmonary nodule cannot be excluded.",
    ),
}
_SHORT_UNCERTAIN = {
    "Cardiomegaly": "Possible cardiomegaly.",
    "Pleural Effusion": "Possible pleural effusion.",
    "Pneumothorax": "Possible pneumothorax.",
    "Consolidation": "Possible early consolidation.",
    "Lung Lesion": "Possible pulmonary nodule.",
}
_BONES = (
    "The visualized osseous structures are unremarkable.",
    "No acute rib fracture is seen.",
    "Bony structures are intact.",
)
_INDICATIONS = (
    "Cough.",
    "Shortness of breath.",
    "Fever.",
    "Chest pain.",
    "Follow-up.",
    "Preoperative evaluation.",
)
_REGIONS = (("Consolidation", "Lung Lesion"), ("Pleural Effusion", "Pneumothorax"), ("Cardiomegaly",))


def severity_word(lesion: Lesion) -> str:
    """The word for a lesion's extent: a third of the range each."""
    words = _EFFUSION_WORDS if lesion.finding in ("Pleural Effusion", "Pneumothorax") else _PLAIN_WORDS
    return words[min(int(lesion.severity * 3), 2)]


def report(rng: np.random.Generator, study: Study) -> str:
    """Writes one study's report with the sections EXAMINATION to IMPRESSION."""
    portable = study.views[0] == "AP"
    kind = "portable AP" if portable else "PA and lateral" if "LATERAL" in study.views else "PA"
    sections = {
        "EXAMINATION": f"CHEST RADIOGRAPH, {kind} view{'s' if 'and' in kind else ''}.",
        "INDICATION": _one(rng, _INDICATIONS),
        "COMPARISON": "Prior chest radiograph." if study.change else _one(rng, ("None.", "None available.")),
        "FINDINGS": _findings(rng, study),
        "IMPRESSION": _impression(rng, study),
    }
    return "FINAL REPORT\n\n" + "\n\n".join(f"{name}:\n{text}" for name, text in sections.items()) + "\n"


def _findings(rng: np.random.Generator, study: Study) -> str:
    sentences: list[str] = []
    for region in _REGIONS:
        for finding in region:
            label = study.labels[finding]
            if label is Label.POSITIVE:
                lesions = study.lesions_of(finding)
                sentences += _merged(rng, lesions) if len(lesions) > 1 else [_positive(rng, lesions[0])]
            elif label is Label.NEGATIVE:
                sentences.append(_one(rng, _NEGATIVE[finding]))
            elif label is Label.UNCERTAIN:
                sentences.append(_one(rng, _UNCERTAIN[finding]))
    if rng.random() < 0.5:
        sentences.append(_one(rng, _BONES))
    return " ".join(sentences) if sentences else "The lungs are well expanded."


def _positive(rng: np.random.Generator, lesion: Lesion) -> str:
    extent, side, zone = severity_word(lesion), lesion.side, lesion.zone
    if lesion.finding == "Cardiomegaly":
        return _one(
            rng,
            (
                f"There is {extent} cardiomegaly.",
                f"The cardiac silhouette is enlarged, consistent with {extent} cardiomegaly.",
                f"{extent.capitalize()} enlargement of the heart.",
            ),
        )
    if lesion.finding == "Pleural Effusion":
        return _one(
            rng,
            (
                f"There is a {extent} {side} pleural effusion.",
                f"A {extent} pleural effusion is present on the {side}.",
                f"{extent.capitalize()} {side} pleural effusion with blunting of the costophrenic angle.",
            ),
        )
    if lesion.finding == "Pneumothorax":
        return _one(
            rng,
            (
                f"There is a {extent} {side} pneumothorax.",
                f"A {extent} pneumothorax is seen on the {side}, with a visible pleural line.",
                f"{extent.capitalize()} {side} pneumothorax is identified.",
            ),
        )
    if lesion.finding == "Consolidation":
        return _one(
            rng,
            (
                f"There is {extent} consolidation in the {side} {zone} lung zone.",
                f"A patchy opacity in the {side} {zone} zone is consistent with {extent} consolidation.",
                f"{extent.capitalize()} {side} {zone} zone airspace consolidation is seen.",
            ),
        )
    # At 256 pixels over a chest of about 32 cm a plane unit is 16 cm.
    size = round(2 * 16 * (0.065 + 0.055 * lesion.severity), 1)
    return _one(
        rng,
        (
            f"There is a {size} cm nodule in the {side} {zone} lung zone.",
            f"A rounded lung lesion of {size} cm projects over the {side} {zone} zone.",
            f"A solitary pulmonary nodule measuring {size} cm is noted in the {side} {zone} zone.",
        ),
    )


def _merged(rng: np.random.Generator, lesions: tuple[Lesion, ...]) -> list[str]:
    right, left = (severity_word(lesion) for lesion in lesions)
    if right == left:
        return [
            _one(
                rng,
                (f"There are {right} bilateral pleural effusions.", f"Bilateral {right} pleural effusions."),
            )
        ]
    return [f"Bilateral pleural effusions, {right} on the right and {left} on the left."]


def _impression(rng: np.random.Generator, study: Study) -> str:
    lines: list[str] = []
    for finding in FINDINGS:
        if study.labels[finding] is Label.POSITIVE:
            lines.append(phrase(study.lesions_of(finding)))
        elif study.labels[finding] is Label.UNCERTAIN:
            lines.append(_SHORT_UNCERTAIN[finding])
    if not lines:
        return _one(rng, ("No acute cardiopulmonary process.", "Normal chest radiograph.", "No acute abnormality."))
    if study.change in ("unchanged", "improved", "worse"):
        lines.append(f"Overall {study.change} since the prior study.")
    if len(lines) == 1:
        return lines[0]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def phrase(lesions: tuple[Lesion, ...]) -> str:
    """What the impression says of the lesions of one finding."""
    first = lesions[0]
    if first.finding == "Cardiomegaly":
        return f"{severity_word(first).capitalize()} cardiomegaly."
    if len(lesions) > 1:
        return "Bilateral pleural effusions."
    if first.finding in ("Pleural Effusion", "Pneumothorax"):
        return f"{severity_word(first).capitalize()} {first.side} {first.finding.lower()}."
    noun = "consolidation" if first.finding == "Consolidation" else "lung nodule"
    return f"{first.side.capitalize()} {first.zone} zone {noun}."


def _one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
