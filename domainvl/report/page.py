"""The page: one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from domainvl.report.html import Markup, join, tag


def page(title: str, parts: Sequence[Markup | None]) -> str:
    """A whole HTML document.

    Args:
        title: What a browser's tab says.
        parts: Header, sections, footer; None is left out.
    """
    here = files("domainvl.report")
    style = (here / "style.css").read_text(encoding="utf-8")
    script = (here / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing is loaded, and no script runs but ours, whatever a class or a file is called.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="robots", content="noindex"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag("body", tag("main", *parts), tag("script", Markup(script)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def contents(parts: Sequence[tuple[str, str]]) -> Markup:
    """Links to the sections, by key and name."""
    return tag("nav", *(tag("a", name, href=f"#{key}") for key, name in parts), aria_label="Contents")


def toggle() -> Markup:
    """The button that turns the theme."""
    return tag("button", "Dark", type="button", id="theme", aria_label="Switch between the light and the dark page")


def footer(pictures: bool) -> Markup:
    """What the page does not hold, and what it is not."""
    if pictures:
        said = "This page shows images of patients (it was made with --images): treat it as you treat them."
    else:
        said = "This page shows no images (report RUN --images adds them)."
    more = " It holds no patient ids and no report text. domainvl is no medical device."
    return tag("footer", tag("p", join([said, more])))
