"""Reading what a server chose from its log; nothing is taken from its flags.

A server that says something else than is known here gives fewer keys, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["CONVERTED", "KERNEL", "Chosen", "graphs", "number", "plain", "take"]

Chosen = dict[str, bool | int | float | str]

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
KERNEL: Final = re.compile(r"Using (?P<kernel>\w*(?:LinearKernel|ScaledMM\w*|Marlin\w*)) for (?P<method>\w+)")
CONVERTED: Final = re.compile(
    r"(?:The model is convertible to \w+ during runtime\. Using |explicitly, so forcing )(?P<kernel>\w+)"
)
"""How engines say which kernel runs a quantised model."""


def plain(log: str) -> str:
    """Return a log without colours, with a line for each step of its progress bars."""
    return _ANSI.sub("", log.replace("\r", "\n"))


def graphs(chosen: Chosen, captured: Mapping[str, int], *, ready: bool) -> None:
    """Add `cuda_graphs`, the number captured, and `cuda_graphs_by`, which splits it.

    It is 0 if the log shows that the server was `ready` and no capture.
    """
    if captured:
        chosen["cuda_graphs"] = sum(captured.values())
        chosen["cuda_graphs_by"] = ", ".join(f"{name}: {count}" for name, count in captured.items())
    elif ready:
        chosen["cuda_graphs"] = 0


def take(chosen: Chosen, key: str, pattern: re.Pattern[str], text: str, group: str) -> None:
    """Add the first match's group, unless the key is there."""
    if key not in chosen and (match := pattern.search(text)):
        chosen[key] = match[group]


def number(chosen: Chosen, key: str, pattern: re.Pattern[str], text: str, group: str) -> None:
    """Add the first match's group as a number, unless the key is there."""
    if key not in chosen and (match := pattern.search(text)):
        digits = match[group].replace(",", "")
        chosen[key] = float(digits) if "." in digits else int(digits)
