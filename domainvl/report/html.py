"""HTML that cannot forget to escape: plain text becomes safe when it enters an element."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "img", "meta"})
"""Elements that have no end."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | float | bool | None) -> Markup:
    """One element.

    Args:
        name: Of the element.
        children: What is in it; text that is not `Markup` is escaped, None is left out.
        attributes: `class_` is class, `aria_label` is aria-label; None and False are left out, True stands alone.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelled = key.rstrip("_").replace("_", "-")
        parts.append(spelled if value is True else f'{spelled}="{escape(str(value))}"')
    opened = f"<{' '.join(parts)}>"
    return Markup(opened if name in _VOID else f"{opened}{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Markup:
    """Parts one after the other, escaped where they are plain text."""
    return Markup("".join(part if isinstance(part, Markup) else _safe(part) for part in parts if part is not None))


def _safe(text: str) -> str:
    """Text that is no HTML; a number keeps its per cent sign on its line."""
    return escape(text).replace(" %", "\u00a0%")


def div(kind: str, *children: str | None) -> Markup:
    """A box of a kind that the style sheet knows."""
    return tag("div", *children, class_=kind)


def rows(pairs: Iterable[tuple[str, str | None]]) -> Markup:
    """Terms and what they are; a None is left out."""
    shown = [join([tag("dt", name), tag("dd", value)]) for name, value in pairs if value is not None]
    return tag("dl", *shown, class_="facts")


def section(key: str, title: str, *children: str | None) -> Markup:
    """A part of the page with a heading that can be linked to."""
    return tag("section", tag("h2", title, id=f"{key}-title"), *children, id=key, aria_labelledby=f"{key}-title")


def figure(caption: str, *children: str | None, kind: str = "") -> Markup:
    """Pictures with the line that says how to read them."""
    return tag("figure", *children, tag("figcaption", caption), class_=kind or None)


def lead(text: str) -> Markup:
    """The sentence under a heading."""
    return tag("p", text, class_="lead")
