"""A log without secrets and names, short enough to be read: what `assay diagnose --contribute` would give away.

Nothing here is proof that a log holds no secret: the result is shown to whoever gives it, before it is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from assay.diagnose.formats import ESCAPE
from assay.engines.table import all_engines

__all__ = ["excerpt", "strip"]

_PUBLIC: Final = (
    r"(?:^|\.)(?:github\.com|githubusercontent\.com|huggingface\.co|hf\.co|pytorch\.org|nvidia\.com|nvcr\.io|docker\.io|"
    r"docker\.com|ghcr\.io|quay\.io|python\.org|flashinfer\.ai|"
    r"example\.(?:org|com|net)|localhost|modelscope\.cn)$|^host-\d+"
)
_KEY_NAMES: Final = (
    r"(?:[\w-]*[_-])?(?:token|api[_-]?key|secret|passw(?:or)?d|credentials?|access[_-]?key(?:[_-]id)?|private[_-]?key)"
)
_HARMLESS: Final = r"""(?!None\b|null\b|True\b|False\b|\[token\]|\d{1,8}\b|["'\s,}])"""
_RULES: Final[tuple[tuple[str, str, str], ...]] = (
    ("private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", "[key]"),
    ("token", (r"\b(?:hf_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{16,}|"
     r"nvapi-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{12,}|pypi-[\w-]{30,}|dckr_pat_[\w-]{10,}|"
     r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"), "[token]"),
    ("token", r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}", r"\1 [token]"),
    ("secret", rf"""(?i)(?<![\w-])({_KEY_NAMES}["']?\s*[=:]\s*["']?){_HARMLESS}[^\s"',;&)}}]+""", r"\1[secret]"),
    ("secret", rf"(?i)(--{_KEY_NAMES}\s+)(?!-)\S+", r"\1[secret]"),
    ("password", r"(\w+://)[^\s:/@]+(?::[^\s/@]+)?@", r"\1"),
    ("mail address", r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b", "someone@example.org"),
    ("MAC address", r"(?i)\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "00:00:5e:00:53:01"),
    ("GPU id", r"\b(GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", r"\1-00000000"),
    ("user name", r"""(?<![\w.])(/home/|/Users/|[A-Za-z]:\\Users\\)(?!user\b)[^/\\\s:'",]+""", r"\1user"),
    ("user name", r"(?m)^([\w.-]+)@[\w.-]+(:\S*[$#] )", r"user@host\2"),
)  # fmt: skip
_ADDRESS: Final = re.compile(
    r"(?<![\w.-])(?<!==)(?!127\.|0\.0\.0\.0)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])"
)
_LONGEST: Final = 4000
_NUMBERS: Final = re.compile(r"[\d.]+")
_ADDRESS_6: Final = re.compile(
    r"(?i)(?<![\w:])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}(?![\w:])|(?<![\w:])fe80::[0-9a-f:]+"
)
_URL_HOST: Final = re.compile(r"(?<=://)([\w-]+(?:\.[\w-]+)*)(?=[:/\s'\"?)]|$)", re.MULTILINE)
_SYSLOG_HOST: Final = re.compile(r"(?m)^((?:[\w-]+\s*\|\s)?[A-Z][a-z]{2}\s+\d{1,2}\s\d\d:\d\d:\d\d\s)([\w.-]+)(?=\s)")
_INNER_HOST: Final = re.compile(
    r"\b[\w-]+(?:\.[\w-]+)*\.(?:internal|local|lan|corp|intra|home|svc)\b|\bip-\d+-\d+-\d+-\d+\b"
)
_WHEEL_LINE: Final = re.compile(r"nvidia-\w|==|\bversion\b", re.IGNORECASE)
_TALK: Final = re.compile(
    r"""(?P<head>(['"]?)(?:text|prompt|content|input|messages|output_text|completion|answer|query)\2\s*[=:]\s*)"""
    r"""(?P<quote>['"])(?P<talk>(?:[^\\]|\\.)*?)(?P=quote)(?=[,)}\]\s]|$)""",
    re.MULTILINE,
)


def strip(text: str) -> tuple[str, Counter[str]]:
    """Return a text without secrets, names, prompts and answers, and the number of replacements."""
    taken: Counter[str] = Counter()

    def count(what: str, replace: str | Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
        def replaced(match: re.Match[str]) -> str:
            new = match.expand(replace) if isinstance(replace, str) else replace(match)
            taken[what] += new != match[0]
            return new

        return replaced

    hosts: dict[str, str] = {}

    named = "".join(rf"(?:^|\.){re.escape(name)}$|" for engine in all_engines() for name in engine.hosts)
    public = re.compile(named + _PUBLIC)

    def host(name: str) -> str:
        return name if public.search(name) else hosts.setdefault(name, f"host-{len(hosts) + 1}")

    text = _TALK.sub(count("prompt or answer", r"\g<head>\g<quote>[...]\g<quote>"), text)
    for what, expression, replacement in _RULES:
        text = re.sub(expression, count(what, replacement), text)
    text = _SYSLOG_HOST.sub(count("host", lambda m: m[1] + host(m[2])), text)
    text = _URL_HOST.sub(count("host", lambda m: m[1] if _NUMBERS.fullmatch(m[1]) else host(m[1])), text)
    text = _INNER_HOST.sub(count("host", lambda m: host(m[0])), text)
    for name, new in hosts.items():
        text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", count("host", new), text)
    text = _ADDRESS_6.sub(count("address", "2001:db8::1"), text)
    return "".join(_without_addresses(line, count) for line in text.splitlines(keepends=True)), +taken


def _without_addresses(
    line: str, count: Callable[[str, Callable[[re.Match[str]], str]], Callable[[re.Match[str]], str]]
) -> str:
    """Replace IPv4 addresses; four numbers beside a package's name are a version."""
    if _WHEEL_LINE.search(line) and "://" not in line and "ip=" not in line:
        return line
    return _ADDRESS.sub(count("address", lambda match: f"192.0.2.{int(match[0].rsplit('.', 1)[1])}"), line)


def excerpt(log: Iterable[bytes], total: int, lines: Iterable[int], *, around: int = 40, most: int = 400) -> str:
    """Return the head and tail of a log of `total` lines and the context of the given lines, without colours."""
    keep = set(range(1, total + 1)) if total <= most else {*range(1, 21), *range(total - 39, total + 1)}
    for place in sorted(lines) if total > most else ():
        near = range(max(1, place - around), min(total, place + around) + 1)
        if len(keep | set(near)) > most:
            break
        keep |= set(near)
    made: list[str] = []
    last = 0
    for number, line in enumerate(log, 1):
        if number not in keep:
            continue
        if number != last + 1:
            made.append(f"[... {number - last - 1} lines left out ...]\n")
        text = ESCAPE.sub(b"", line).decode("utf-8", "replace").rstrip("\r\n")
        made.append((text if len(text) <= _LONGEST else text[:_LONGEST] + " [...]") + "\n")
        last = number
    return "".join(made)
