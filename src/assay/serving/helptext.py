"""Reading what a server's `--help` says of its flags in argparse's format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["HelpOption", "parse_help"]

Arity = Literal["none", "one", "optional", "many"]

# An option begins two columns in; its help stands behind two spaces or more, or on lines further in.
_OPTION: Final = re.compile(r"^ {2}(?P<names>-{1,2}[A-Za-z].*?)(?:\s{2,}(?P<text>\S.*))?$")
_CONTINUED: Final = re.compile(r"^ {6,}(?P<text>\S.*)$")
_SPLIT: Final = re.compile(r", (?=-)")
_CHOICES: Final = re.compile(r"\{([^{}]+)\}")
_DEPRECATED: Final = re.compile(r"\bdeprecated\b", re.IGNORECASE)
_FLAG: Final = re.compile(r"--([a-z][a-z0-9-]*[a-z0-9])")
_BRACED: Final = re.compile(r"--([a-z][a-z0-9-]*-)\{([a-z0-9,-]+)\}(?:=([a-z0-9_-]+))?")


@dataclass(frozen=True, kw_only=True)
class HelpOption:
    """One option as the server's help tells it."""

    name: str
    """The first long name, without dashes."""
    names: tuple[str, ...]
    """All long names, without dashes."""
    arity: Arity = "none"
    choices: tuple[str, ...] = ()
    """Empty: anything, or the help does not say."""
    text: str = ""

    @property
    def deprecated(self) -> bool:
        """Whether its help calls it deprecated."""
        return bool(_DEPRECATED.search(self.text))

    @property
    def named_instead(self) -> tuple[str, ...]:
        """The flags that the help of a deprecated option names, braces expanded."""
        text = self.text
        found = [f"{head}{tail}" for head, tails, _ in _BRACED.findall(text) for tail in tails.split(",")]
        text = _BRACED.sub("", text)
        return tuple(dict.fromkeys([*found, *(name for name in _FLAG.findall(text) if name not in self.names)]))


LONGEST: Final = 1 << 20
"""Characters of a help text that are read."""

_LONGEST_LINE: Final = 4000


def parse_help(text: str) -> Mapping[str, HelpOption]:
    """Return every long option by each of its names; an empty mapping if the text is no argparse help."""
    declared: list[tuple[str, list[str]]] = []
    for whole in text[:LONGEST].splitlines():
        # The expressions try every split of a line's spaces.
        line = whole[:_LONGEST_LINE]
        if match := _OPTION.match(line):
            declared.append((match["names"], [match["text"]] if match["text"] else []))
        elif declared and (continued := _CONTINUED.match(line)):
            declared[-1][1].append(continued["text"].rstrip())
        elif line.strip() and not line.startswith(" "):
            # A group's title ends the option before it.
            declared.append(("", []))
    options: dict[str, HelpOption] = {}
    for names, lines in declared:
        if option := _option(names, _joined(lines)):
            options |= dict.fromkeys(option.names, option)
    return options


def _joined(lines: list[str]) -> str:
    text = ""
    for line in lines:
        # argparse wraps behind a hyphen without a space: `--cuda-graph-` / `backend-decode`.
        text += line if not text or text.endswith("-") else f" {line}"
    return text


def _option(declaration: str, text: str) -> HelpOption | None:
    names: list[str] = []
    operand = ""
    for part in _SPLIT.split(declaration):
        name, _, rest = part.strip().partition(" ")
        name, equals, value = name.partition("=")
        if name.startswith("--"):
            names.append(name[2:])
        operand = rest.strip() or (value if equals else "") or operand
    if not names:
        return None
    choices = _CHOICES.search(operand)
    return HelpOption(
        name=names[0],
        names=tuple(names),
        arity=_arity(operand),
        choices=tuple(choices[1].split(",")) if choices else (),
        text=text,
    )


def _arity(operand: str) -> Arity:
    if not operand:
        return "none"
    if operand.endswith(("...]", "...")):
        return "many"
    return "optional" if operand.startswith("[") else "one"
