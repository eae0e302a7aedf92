"""Markup that is escaped by construction: only :class:`Html` passes unescaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = Html | str | None

_VOID = frozenset({"meta", "br"})


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """One element. Attribute ``class_`` is ``class``; other underscores become dashes.

    An attribute that is None or False is left out, True stands alone.
    """
    opened = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.removesuffix("_").replace("_", "-")
        if value is True:
            opened.append(label)
            continue
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        opened.append(f'{label}="{html.escape(text)}"')
    start = f"<{' '.join(opened)}>"
    if name in _VOID:
        return Html(start)
    return Html(f"{start}{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Children one after the other, text among them escaped."""
    return Html("".join(_text(child) for child in children if child is not None))


def data_block(identifier: str, value: Any) -> Html:
    """A script element that holds JSON. No text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')


def section(identifier: str, title: str, lead: Child, *body: Child) -> Html:
    """A titled section with one sentence under the title."""
    return tag(
        "section",
        tag("h2", title),
        tag("p", lead, class_="lead") if lead else None,
        *body,
        id=identifier,
    )


def _text(child: Html | str) -> str:
    return child if isinstance(child, Html) else html.escape(child)
