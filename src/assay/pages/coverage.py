"""Format the coverage of releases as text, Markdown or a web page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from assay.audit.coverage import Coverage, CoverageChange, CoverageRow
from assay.foundation.platforms import Platform
from assay.foundation.printable import wrapped
from assay.foundation.versions import parsed

__all__ = ["coverage_html", "coverage_markdown", "coverage_text"]

_SYMBOL: Final = {
    "works": "✓", "works_if": "✓*", "degraded": "~", "wrong": "≠", "broken": "✗", "unsupported": "−",
    "inconclusive": "?", "not_run": "·",
}  # fmt: skip
_PLATFORM: Final[dict[str, str]] = {**{one.machine: one.value for one in Platform}, "any": "any platform"}
_LEGEND: Final = (
    "✓ works, ✓* works on a condition (PTX that the driver compiles, or a tool at run time), ~ works but slowly, "
    "≠ wrong numbers, ✗ broken: no code or it does not load, − unsupported, ? not known, empty: not in the wheel."
)
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #8888;padding:.2rem .5rem;text-align:center}"
    "th:first-child{text-align:left}div{overflow-x:auto}code{font-size:.9em}"
)


def coverage_markdown(found: Coverage) -> Iterator[str]:
    """Yield the lines of a page."""
    yield "# Coverage of releases"
    yield ""
    yield f"Predicted from the wheels on {found.made} by `assay report --coverage`, for releases since {found.since}."
    yield "Nothing here was measured. Each wheel is judged beside the torch of the package index that it requires."
    yield ""
    yield _LEGEND
    for name in found.distributions:
        yield from ("", f"## {name}", "", _range(found, name))
        lines = list(_change_lines(found, name))
        if lines:
            yield from ("", "### What changed", "", *(f"- {line}" for line in lines))
        yield from _tables(found, name)


def _range(found: Coverage, name: str) -> str:
    rows = [row for row in found.rows if row.distribution == name]
    versions = list(dict.fromkeys((row.version, row.uploaded) for row in rows))
    problems = [f"{row.version} ({_PLATFORM[row.platform]})" for row in rows if row.problem]
    ends = f"{versions[0][0]} ({versions[0][1]}) to {versions[-1][0]} ({versions[-1][1]})"
    return f"{len(versions)} releases, {ends}." + (f" Not read: {', '.join(problems)}." if problems else "")


def _change_lines(found: Coverage, name: str) -> Iterator[str]:
    """Yield what changed, newest first; the same change on both platforms is told once."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for change in reversed([one for one in found.changes if one.distribution == name]):
        for words in change.words():
            told.setdefault((change.before, change.after, words), []).append(_PLATFORM[change.platform])
    for (before, after, words), platforms in sorted(told.items(), key=lambda item: parsed(item[0][1]), reverse=True):
        yield f"{before} → {after} ({', '.join(sorted(platforms))}): {words}"


def _tables(found: Coverage, name: str) -> Iterator[str]:
    for row in found.newest(name):
        targets, features, same = _parts(row)
        yield from ("", f"### {row.version} on {_PLATFORM[row.platform]}", "")
        if same:
            names = (f"`{one}` {_SYMBOL[state]}" for one, state in same.items())
            yield f"The same on every target: {', '.join(names)}."
        if same and features:
            yield ""
        if features:
            yield from ("| | " + " | ".join(targets) + " |", "| --- |" + " --- |" * len(targets))
        for feature in features:
            cells = [_SYMBOL.get(row.targets[target].get(feature, ""), "") for target in targets]
            yield f"| `{feature}` | " + " | ".join(cells) + " |"


def _parts(row: CoverageRow) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the targets, the features that differ between them, and those that do not with their state."""
    targets = list(row.targets)
    every = sorted({feature for states in row.targets.values() for feature in states})
    same: dict[str, str] = {}
    for feature in every:
        states = {row.targets[target].get(feature, "") for target in targets}
        if len(states) == 1:
            same[feature] = states.pop()
    return targets, [one for one in every if one not in same], same


def coverage_text(found: Coverage, *, width: int | None = None) -> Iterator[str]:
    """Yield the lines for a terminal."""
    for name in found.distributions:
        yield from wrapped(f"{name}: {_range(found, name)}", width)
        for line in _change_lines(found, name):
            yield from wrapped(line.replace("`", ""), width, first="  ", hang="    ")
        for row in found.newest(name):
            yield from wrapped(f"{row.version} on {_PLATFORM[row.platform]}, predicted:", width, first="  ")
            for target, states in row.targets.items():
                lacking = [f"{one} {state}" for one, state in sorted(states.items()) if not state.startswith("works")]
                works = sum(state.startswith("works") for state in states.values())
                words = f"{target:7} {works} of {len(states)} features" + (f"; {', '.join(lacking)}" if lacking else "")
                yield from wrapped(words, width, first="    ", hang=" " * 12)


def coverage_html(found: Coverage) -> str:
    """Return a page: nothing is loaded, nothing runs."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Coverage of releases</title><style>{_STYLE}</style></head><body><h1>Coverage of releases</h1>",
        f"<p>Predicted from the wheels on {escape(found.made)}. Nothing here was measured. {escape(_LEGEND)}</p>",
    ]
    for name in found.distributions:
        parts.append(f"<h2>{escape(name)}</h2><p>{escape(_range(found, name))}</p>")
        lines = list(_change_lines(found, name))
        if lines:
            parts.append("<h3>What changed</h3><ul>")
            parts += (f"<li>{_coded(line)}</li>" for line in lines)
            parts.append("</ul>")
        for row in found.newest(name):
            parts += _html_table(row)
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _coded(line: str) -> str:
    pieces = escape(line).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))


def _html_table(row: CoverageRow) -> Sequence[str]:
    targets, features, same = _parts(row)
    parts = [f"<h3>{escape(row.version)} on {escape(_PLATFORM[row.platform])}</h3>"]
    if same:
        names = (f"<code>{escape(one)}</code> {_SYMBOL[state]}" for one, state in same.items())
        parts.append(f"<p>The same on every target: {', '.join(names)}.</p>")
    if features:
        heads = "".join(f"<th>{escape(target)}</th>" for target in targets)
        parts.append(f"<div><table><tr><th></th>{heads}</tr>")
        for feature in features:
            cells = "".join(f"<td>{_SYMBOL.get(row.targets[target].get(feature, ''), '')}</td>" for target in targets)
            parts.append(f"<tr><th>{escape(feature)}</th>{cells}</tr>")
        parts.append("</table></div>")
    return parts


def summary(changes: Sequence[CoverageChange]) -> str:
    """Return how much changed, in a few words."""
    lost = sum(bool(change.lost) for change in changes)
    return f"{len(changes)} releases changed something, {lost} of them lost something"
