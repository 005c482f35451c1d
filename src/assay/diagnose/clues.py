"""What helps where no cause is known: the first error, what the log names, the nearest entries, words to search for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Final

from assay.diagnose.library import FailureLibrary
from assay.diagnose.model import Clues, Evidence, FailureEntry, FailureKind, Near
from assay.diagnose.telling import first_error
from assay.diagnose.text import peel
from assay.engines.table import all_engines, engine_names

__all__ = ["clues"]

_PINNED: Final = re.compile(r"(?<![\w.-])([A-Za-z][\w-]{1,40})(?:\[[\w,]+\])?==v?(\d[\w.+!]*\w)")
_SAID: Final = (
    ("nccl", re.compile(r"NCCL version (\d+\.\d+(?:\.\d+)?)")),
    ("cuda", re.compile(r"CUDA [Vv]ersion:? *(\d+\.\d+)|\bcuda[-:](\d+\.\d+)|tools, release (\d+\.\d+)")),
    ("driver", re.compile(r"(?:Driver [Vv]ersion:? *|Kernel Module +(?:for \w+ +)?)(\d{3}\.\d+(?:\.\d+)?)")),
    ("python", re.compile(r"\bpython(3\.\d{1,2})\b")),
)  # fmt: skip
_CARD: Final = re.compile(
    r"\bNVIDIA[ _](?:GeForce[ _])?(?:RTX|GTX|H\d{2,3}|B\d{2,3}|GB\d{2,3}|A\d{1,3}|L\d{1,2}S?|DGX)[\w -]{0,60}?"
    r"(?=[,.;:'\")/\n]|\.json|\s{2}|$| with | and | is )|\bGB10\b|\bsm_?\d{2,3}[af]?\b",
    re.MULTILINE,
)
_PLACE: Final = re.compile(r"(?:\{\w+\})+")
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z_]{3,}")
_VOLATILE: Final = re.compile(
    r"0x[0-9a-fA-F]+|(?:/[\w.+-]+){2,}/?|https?://\S+|\b[0-9a-f]{8,}\b|[\w.-]+@[\w.-]+|\b\d+(?:[.:,]\d+)*\b|['\"`\[\](){}<>=]"
)
_LEAST_SHARED: Final = 3
_FEWEST: Final = 0.16
"""An entry less like the log than this is not near it."""


def clues(telling: Sequence[Evidence], sample: str, library: FailureLibrary, *, follows: Iterable[int] = ()) -> Clues:
    """Return what helps with a failure of no known cause.

    `sample` is the text of the log's head and tail; `follows` are lines of which it is known that they only follow
    from others (wrappers, and what other processes say of the one that failed).
    """
    first = first_error(list(telling), frozenset(follows))
    versions = _versions(sample)
    return Clues(
        first=first,
        versions=versions,
        cards=tuple(dict.fromkeys(card.replace("_", " ").strip() for card in _cards(sample)))[:4],
        nearest=_nearest(telling, library),
        search=_search(first, versions),
    )


@cache
def _named() -> re.Pattern[str]:
    """Return the expression for packages that logs name with their version."""
    return re.compile(
        rf"\b(torch|{'|'.join(map(re.escape, engine_names()))}|transformers|triton|flashinfer(?:[-_]python)?|"
        r"flash[-_]attn|sgl[-_]kernel|xformers|bitsandbytes|tilelang|numpy|setuptools)[ -_:@/]v?(\d+\.\d+[\w.+]*)",
        re.IGNORECASE,
    )


def _versions(sample: str) -> dict[str, str]:
    found: dict[str, str] = {}
    engines = ((engine.name, engine.version_said) for engine in all_engines() if engine.version_said)
    for name, expression in (*engines, *_SAID):
        if match := expression.search(sample):
            found[name] = next(filter(None, match.groups()))
    for expression in (_PINNED, _named()):
        for match in expression.finditer(sample):
            found.setdefault(match[1].lower().replace("_", "-"), match[2])
            if len(found) >= 16:
                return found
    return found


def _cards(sample: str) -> list[str]:
    return [match[0] for _, match in zip(range(200), _CARD.finditer(sample), strict=False)]


def _tokens(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


@lru_cache(maxsize=4)
def _words(library: FailureLibrary) -> tuple[dict[str, list[set[str]]], dict[str, float]]:
    """Return the words of every example by entry, and how rare each word is."""
    entries = [entry for entry in library.entries.values() if entry.kind in {FailureKind.CAUSE, FailureKind.GENERAL}]
    examples = {entry.id: [_tokens(example) for example in entry.examples] for entry in entries}
    common = Counter(word for sets in examples.values() for word in set().union(*sets))
    return examples, {word: math.log(len(examples) / count) + 0.1 for word, count in common.items()}


def _nearest(telling: Sequence[Evidence], library: FailureLibrary, *, most: int = 3) -> tuple[Near, ...]:
    """Return the entries whose examples share the rarest words with the telling lines, and what they lack."""
    examples, weight = _words(library)
    lines = [(e, _tokens(peel(e.text))) for e in telling if not peel(e.text).lstrip().startswith("Traceback")]
    scored: list[tuple[float, str, Evidence]] = []
    for name, sets in examples.items():
        pairs = ((_likeness(mine, words, weight), evidence) for mine in sets for evidence, words in lines)
        score, evidence = max(pairs, key=lambda pair: pair[0], default=(0.0, None))
        if evidence is not None and score > _FEWEST:
            scored.append((score, name, evidence))
    scored.sort(key=lambda item: (-item[0], item[1]))
    return tuple(_near(library.entries[name], evidence) for _, name, evidence in scored[:most])


def _likeness(mine: set[str], words: set[str], weight: Mapping[str, float]) -> float:
    if len(mine & words) < _LEAST_SHARED:
        return 0.0
    shared = sum(weight.get(word, 0.0) for word in mine & words)
    whole = sum(weight.get(word, 0.0) for word in mine) + sum(weight.get(word, 3.0) for word in words - mine)
    return shared / whole if whole else 0.0


def _near(entry: FailureEntry, evidence: Evidence) -> Near:
    anchors = [anchor for signature in entry.signatures for anchor in signature.anchors]
    met = next((anchor for anchor in anchors if anchor in evidence.text), None)
    if met is None:
        lacks = f"line {evidence.line} is like it, but no line has {anchors[0]!r}"
    else:
        lacks = f"line {evidence.line} has {met!r}, but not in the form that this entry knows"
    return Near(id=entry.id, cause=_PLACE.sub("...", entry.cause), lacks=lacks)


def _search(first: Evidence | None, versions: Mapping[str, str]) -> str:
    if first is None:
        return ""
    words = _VOLATILE.sub(" ", peel(first.text)).split()
    engines = [name for name in (*engine_names(), "flashinfer") if name in versions]
    return " ".join([*words[:12], *engines])
