"""Reports in the manner of a hospital archive, organ by organ, whose every word agrees with labels and voxels."""

from __future__ import annotations

import numpy as np

from domainvl.samples.ct.cases import FINDINGS, ORGAN_OF, ORGANS, Lesion, Study
from domainvl.samples.ct.planting import liver_radius, nodule_radius, stone_radius
from domainvl.samples.cxr.cases import Label

_EXTENTS = {
    "Pleural effusion": ("small", "moderate", "large"),
    "Pericardial effusion": ("small", "moderate", "large"),
    "Ascites": ("small", "moderate", "large"),
}
_PLAIN_EXTENTS = ("mild", "moderate", "severe")
_NOUNS = {
    "Lung nodule": "lung nodule",
    "Consolidation": "consolidation",
    "Emphysema": "emphysema",
    "Pleural effusion": "pleural effusion",
    "Cardiomegaly": "cardiomegaly",
    "Pericardial effusion": "pericardial effusion",
    "Arterial wall calcification": "arterial wall calcification",
    "Liver lesion": "liver lesion",
    "Splenomegaly": "splenomegaly",
    "Kidney stone": "kidney stone",
    "Ascites": "ascites",
}
_POSITIVE = {
    "Lung nodule": (
        "There is a {size} cm nodule in the {side} {lobe} lobe.",
        "A rounded lung nodule of {size} cm lies in the {side} {lobe} lobe.",
        "A solitary nodule measuring {size} cm is noted in the {side} {lobe} lobe.",
    ),
    "Consolidation": (
        "There is {extent} consolidation in the {side} {lobe} lobe.",
        "A patchy opacity in the {side} {lobe} lobe is consistent with {extent} consolidation.",
        "{Extent} airspace consolidation of the {side} {lobe} lobe is seen.",
    ),
    "Emphysema": (
        "There is {extent} emphysema in both lungs.",
        "{Extent} emphysema with areas of low attenuation.",
        "Both lungs show {extent} emphysema.",
    ),
    "Pleural effusion": (
        "There is a {extent} {side} pleural effusion.",
        "A {extent} pleural effusion is present on the {side}.",
        "{Extent} {side} pleural effusion layers behind the lung.",
    ),
    "Cardiomegaly": (
        "There is {extent} cardiomegaly.",
        "The heart is enlarged, consistent with {extent} cardiomegaly.",
        "{Extent} enlargement of the heart.",
    ),
    "Pericardial effusion": (
        "There is a {extent} pericardial effusion.",
        "A {extent} pericardial effusion surrounds the heart.",
        "{Extent} pericardial effusion is seen.",
    ),
    "Arterial wall calcification": (
        "There is {extent} arterial wall calcification of the aorta.",
        "Calcified plaques of the aorta, {extent} arterial wall calcification.",
        "{Extent} calcification of the wall of the aorta.",
    ),
    "Liver lesion": (
        "There is a hypodense liver lesion of up to {size} cm.",
        "A dark liver lesion measuring up to {size} cm is seen in the right lobe.",
        "Hypodense liver lesion, {size} cm at most.",
    ),
    "Splenomegaly": (
        "There is {extent} splenomegaly.",
        "The spleen is enlarged, consistent with {extent} splenomegaly.",
        "{Extent} enlargement of the spleen.",
    ),
    "Kidney stone": (
        "There is a {size} cm kidney stone on the {side}.",
        "A {side} kidney stone of {size} cm is seen.",
        "A stone measuring {size} cm lies in the {side} kidney.",
    ),
    "Ascites": (
        "There is a {extent} amount of ascites.",
        "{Extent} ascites with free fluid around the liver.",
        "Free fluid in the abdomen, {extent} ascites.",
    ),
}
_NEGATIVE = {
    "Lung nodule": ("No lung nodule is seen.", "There is no suspicious nodule."),
    "Consolidation": ("No consolidation is present.", "There is no evidence of consolidation."),
    "Emphysema": ("There is no emphysema.", "No emphysema is seen."),
    "Pleural effusion": ("There is no pleural effusion.", "No pleural effusion is identified."),
    "Cardiomegaly": ("The heart size is normal.", "There is no cardiomegaly."),
    "Pericardial effusion": ("There is no pericardial effusion.", "No pericardial effusion is seen."),
    "Arterial wall calcification": (
        "No arterial wall calcification is seen.",
        "The aorta is without calcification.",
    ),
    "Liver lesion": ("No liver lesion is seen.", "There is no focal liver lesion."),
    "Splenomegaly": ("The spleen is of normal size.", "There is no splenomegaly."),
    "Kidney stone": ("No kidney stone is seen.", "There is no kidney stone."),
    "Ascites": ("There is no ascites.", "No ascites is seen."),
}
_BONES = (
    "No destructive bone lesion.",
    "The osseous structures are unremarkable.",
    "Degenerative changes of the spine.",
)
_INDICATIONS = ("Cough.", "Shortness of breath.", "Weight loss.", "Abdominal pain.", "Follow-up.", "Staging.")


def severity_word(lesion: Lesion) -> str:
    """The word for a lesion's extent: a third of the range each."""
    return _EXTENTS.get(lesion.finding, _PLAIN_EXTENTS)[min(int(lesion.severity * 3), 2)]


def report(rng: np.random.Generator, study: Study) -> tuple[str, dict[str, str]]:
    """Writes one study's report with the sections EXAMINATION to IMPRESSION.

    Returns:
        The report; and for each organ what it states or doubts, or that there is nothing.
    """
    said = {finding: _sentences(rng, study, finding) for finding in FINDINGS}
    everything = [sentence for finding in FINDINGS for sentence in said[finding]]
    if rng.random() < 0.5:
        everything.append(_one(rng, _BONES))
    sections = {
        "EXAMINATION": "CT OF THE CHEST AND UPPER ABDOMEN.",
        "INDICATION": _one(rng, _INDICATIONS),
        "TECHNIQUE": f"Axial images {'with' if study.contrast else 'without'} intravenous contrast.",
        "COMPARISON": "Prior CT." if study.change else _one(rng, ("None.", "None available.")),
        "FINDINGS": " ".join(everything) if everything else "Normal appearance of chest and upper abdomen.",
        "IMPRESSION": _impression(rng, study),
    }
    text = "FINAL REPORT\n\n" + "\n\n".join(f"{name}:\n{text}" for name, text in sections.items()) + "\n"
    return text, {organ: _organ(study, said, organ) for organ in ORGANS}


def phrase(lesions: tuple[Lesion, ...]) -> str:
    """What the impression says of the lesions of one finding."""
    first = lesions[0]
    noun = _NOUNS[first.finding]
    if len(lesions) > 1:
        return f"Bilateral {noun}s."
    if first.lobe:
        return f"{first.side.capitalize()} {first.lobe} lobe {noun}."
    if first.finding == "Kidney stone":
        return f"{first.side.capitalize()} {noun}."
    if first.finding == "Liver lesion":
        return f"Hypodense {noun}."
    words = " ".join(word for word in (severity_word(first), first.side, noun) if word)
    return f"{words[0].upper()}{words[1:]}."


def _sentences(rng: np.random.Generator, study: Study, finding: str) -> list[str]:
    label = study.labels[finding]
    if label is Label.UNMENTIONED:
        return []
    if label is Label.NEGATIVE:
        return [_one(rng, _NEGATIVE[finding])]
    if label is Label.UNCERTAIN:
        noun = _NOUNS[finding]
        return [_one(rng, (f"Possible {noun}.", f"{noun[0].upper()}{noun[1:]} cannot be excluded."))]
    lesions = study.lesions_of(finding)
    if len(lesions) > 1:
        right, left = (severity_word(lesion) for lesion in lesions)
        if right == left:
            return [f"There are {right} bilateral {_NOUNS[finding]}s."]
        return [f"Bilateral {_NOUNS[finding]}s, {right} on the right and {left} on the left."]
    return [_filled(_one(rng, _POSITIVE[finding]), lesions[0])]


def _filled(template: str, lesion: Lesion) -> str:
    extent = severity_word(lesion)
    radius = {"Lung nodule": nodule_radius, "Liver lesion": liver_radius, "Kidney stone": stone_radius}
    size = round(radius[lesion.finding](lesion) / 5, 1) if lesion.finding in radius else ""
    return template.format(size=size, extent=extent, Extent=extent.capitalize(), side=lesion.side, lobe=lesion.lobe)


def _organ(study: Study, said: dict[str, list[str]], organ: str) -> str:
    """The same words for every healthy organ, so that they can be told to be the same."""
    own = [finding for finding in FINDINGS if ORGAN_OF[finding] == organ]
    raised = [f for f in own if study.labels[f] in (Label.POSITIVE, Label.UNCERTAIN)]
    if raised:
        return " ".join(sentence for finding in raised for sentence in said[finding])
    verb = "show" if organ.endswith("s") else "shows"
    return f"The {organ} {verb} no abnormality."


def _impression(rng: np.random.Generator, study: Study) -> str:
    lines: list[str] = []
    for finding in FINDINGS:
        if study.labels[finding] is Label.POSITIVE:
            lines.append(phrase(study.lesions_of(finding)))
        elif study.labels[finding] is Label.UNCERTAIN:
            lines.append(f"Possible {_NOUNS[finding]}.")
    if not lines:
        return _one(rng, ("No acute abnormality.", "Normal CT of chest and upper abdomen."))
    if study.change:
        lines.append(f"Overall {study.change} since the prior study.")
    if len(lines) == 1:
        return lines[0]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def _one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
