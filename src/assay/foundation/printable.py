"""Foreign text as a terminal, a page or a badge may show it. Pure.

Records, locks, logs, registries and package indexes hold text that others wrote. A terminal obeys control characters:
they can move the cursor, hide a line or print `ok: verified`. Everything that `assay.cli.console` writes passes here.
"""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any, Final

__all__ = ["is_printable", "json_text", "one_line", "printable", "wrapped"]

# C0 but for tab and line feed, DEL and C1; marks that reorder or hide text (bidi, zero-width space, line separators,
# annotations, tags); lone surrogates and the two codes that XML 1.0 forbids. The joiners U+200C and U+200D are part
# of words and emoji, and change nothing else.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
_COLOUR: Final = re.compile("\x1b\\[[0-9;:]*m")


def printable(text: str) -> str:
    r"""Return text that no terminal obeys: colours are dropped, other control characters are made visible (`\x1b`).

    Line feeds and tabs stay; use `one_line` where a line feed could forge a line.
    """
    if not _UNSAFE.search(text):
        return text
    return _UNSAFE.sub(_visible, _COLOUR.sub("", text).replace("\r\n", "\n"))


def is_printable(text: str) -> bool:
    """Return whether `printable` leaves the text as it is."""
    return not _UNSAFE.search(text)


def one_line(text: str) -> str:
    r"""Return `printable` text on one line; a line feed becomes `\n`, a tab a space."""
    return printable(text).replace("\n", "\\n").replace("\t", " ")


def wrapped(text: str, width: int | None, *, first: str = "", hang: str = "    ") -> list[str]:
    """Return lines of at most `width` characters, broken at spaces only: a longer word has a line of its own.

    Args:
        text: one paragraph.
        width: of the terminal; None: unlimited.
        first: what the first line starts with.
        hang: indentation of the other lines; shortened where little room would be left beside it.
    """
    if width is None:
        return [first + text]
    words = text.split() or [""]
    if len(hang) + max(map(len, words)) > width or len(hang) > width * 3 // 5:
        hang = hang[:8]
    head = [first.rstrip()] if first.strip() and len(first) + len(words[0]) > width else []
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=hang if head else first,
        subsequent_indent=hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return head + lines


def json_text(value: Any, *, indent: int | None = 1) -> str:
    r"""Return JSON whose strings hold no raw control character: `\u009b`, also for a lone surrogate.

    Readers get the value back exactly. Without `indent` it has no spaces.
    """
    separators = (",", ":") if indent is None else None
    return _UNSAFE.sub(_escaped, json.dumps(value, indent=indent, separators=separators, ensure_ascii=False))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if ord(match[0]) != 0x7F else "\\u007f"
