"""Radiology reports: from text to findings and impression.

The rules are written from what the reports look like, not ported: a header is capitals (or a known word) and a colon,
where a line or sentence starts; headers of one meaning share a section; when a section comes twice the last one counts,
because a report is amended below; what stands above a line of underscores is an addendum when it says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SPELLINGS: dict[str, tuple[str, ...]] = {
    "findings": ("finding", "findings", "chest findings", "report", "body of report"),
    "impression": (
        "impression",
        "impressions",
        "impresson",
        "impession",
        "impresion",
        "imprression",
        "impression and plan",
        "impression and recommendation",
        "impression and recommendations",
        "impression/recommendation",
        "impression/recommendations",
        "impressions/recommendations",
        "conclusion",
        "conclusions",
        "opinion",
        "interpretation",
        "final impression",
    ),
    "comparison": ("comparison", "comparisons", "comparison study", "comparison films", "prior studies"),
    "indication": (
        "indication",
        "indications",
        "clinical indication",
        "clinical information",
        "clinical history",
        "history",
        "reason for exam",
        "reason for examination",
        "reason for study",
        "reason for the exam",
        "clinical statement",
    ),
    "technique": ("technique", "procedure", "procedure comments", "views", "projection", "technical factors"),
    "examination": ("examination", "exam", "exams", "study", "type of examination"),
    "recommendation": ("recommendation", "recommendations", "recommendation(s)"),
    "notification": ("notification", "notifications", "notification(s)", "communication", "wet read"),
    "end": ("end of impression", "end impression", "summary", "accession number", "attestation"),
}
_MEANING = {spelling: section for section, spellings in _SPELLINGS.items() for spelling in spellings}

_HEADER = re.compile(r"(?:^[ \t]*|(?<=[.?!])[ \t]+)(?P<name>[A-Za-z][A-Za-z /&()\-]{1,48}?)[ \t]*:", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*_{8,}[ \t]*$", re.MULTILINE)
_MASK = re.compile(r"_{2,}|\bX{4,}\b")
_SPACE = re.compile(r"\s+")
# A dot ends a sentence unless it stands in a number or after a single letter or a usual abbreviation.
_STOP = re.compile(r"(?<=[.?!])(?<!\b[A-Za-z]\.)(?<!\b(?:[Dd]r|[Mm]r|[Mm]s|[Vv]s)\.)(?<!\b[Mm]rs\.)\s+(?=[A-Z0-9\"(])")
_NUMBERED = re.compile(r"(?:^|(?<=\s))\d{1,2}[.)]\s+(?=[A-Za-z])")


@dataclass(frozen=True)
class Report:
    """A report in its parts; a part that is not there is an empty string. Texts stay out of the repr.

    Attributes:
        findings: What was seen.
        impression: What it means.
        sections: All sections by meaning, the last of each.
        addendum: What was added above the report.
        last_paragraph: The last paragraph that is no header of its own, for reports without any.
    """

    findings: str = field(default="", repr=False)
    impression: str = field(default="", repr=False)
    sections: dict[str, str] = field(default_factory=dict, repr=False)
    addendum: str = field(default="", repr=False)
    last_paragraph: str = field(default="", repr=False)

    @property
    def described(self) -> str:
        """Findings, or the last paragraph of a report that has neither findings nor impression."""
        return self.findings or ("" if self.impression else self.last_paragraph)

    @property
    def text(self) -> str:
        """Impression, else findings, else the last paragraph, else nothing."""
        return self.impression or self.findings or self.last_paragraph


def split_report(text: str) -> Report:
    """Take a report apart."""
    addendum, body = _without_addendum(text)
    sections: dict[str, str] = {}
    headers = [found for found in _HEADER.finditer(body) if _is_header(found["name"])]
    ends = [*(header.start() for header in headers[1:]), len(body)]
    for header, end in zip(headers, ends, strict=False):
        content = clean(body[header.end() : end])
        name = _meaning(header["name"])
        for part in ("findings", "impression") if name == "findings and impression" else (name,):
            if content:
                sections[part] = content
    return Report(
        findings=sections.get("findings", ""),
        impression=sections.get("impression", ""),
        sections=sections,
        addendum=clean(addendum),
        last_paragraph=_last_paragraph(body),
    )


def clean(text: str) -> str:
    """One line without marks of de-identification (`___`, `XXXX`) and double spaces."""
    return _SPACE.sub(" ", _MASK.sub(" ", text)).strip()


def sentences(text: str) -> list[str]:
    """Sentences of a section; decimals ("1.5 cm") and numbered lists do not break in the wrong place."""
    parts = (part for item in _NUMBERED.split(text) for part in _STOP.split(item))
    return [part.strip() for part in parts if part.strip()]


def _without_addendum(text: str) -> tuple[str, str]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    rule = _RULE.search(text)
    if rule is None or "ADDENDUM" not in text[: rule.start()].upper():
        return "", text
    return text[: rule.start()], text[rule.end() :]


def _is_header(name: str) -> bool:
    return _folded(name) in _MEANING or _folded(name) == "findings and impression" or name.isupper()


def _meaning(name: str) -> str:
    folded = _folded(name)
    return _MEANING.get(folded, folded)


def _folded(name: str) -> str:
    folded = _SPACE.sub(" ", name).strip().lower()
    return "findings and impression" if folded in ("findings/impression", "findings and impressions") else folded


def _last_paragraph(body: str) -> str:
    """The last paragraph; one that consists of a header alone counts with nothing."""
    paragraphs = [part for part in re.split(r"\n[ \t]*\n", body) if clean(part)]
    for part in reversed(paragraphs):
        header = _HEADER.match(part)
        content = clean(part[header.end() :] if header and _is_header(header["name"]) else part)
        if len(content.split()) > 2:
            return content
    return ""
