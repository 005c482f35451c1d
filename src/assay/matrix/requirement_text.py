"""Requirements with axes (`torch{{ torch.pin }}`): a small subset of Jinja that always ends. Pure.

A recipe may come from anybody. Loops, macros, products, formats and assignments are refused, so that what a requirement
takes to fill in is bounded by its length.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from assay.matrix.model import AxisValue

__all__ = ["fill", "names_in"]

MAX_LENGTH: Final = 2000
"""Characters of a requirement, before and after it is filled in."""
_JINJA: Final = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_ALLOWED: Final = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Const,
    nodes.Name,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Concat,
    nodes.Add,
    nodes.List,
    nodes.Tuple,
    nodes.Test,
    nodes.Filter,
    nodes.Call,
)
_METHODS: Final = frozenset({"startswith", "endswith", "split", "partition", "rpartition", "strip", "lower", "upper"})
_FILTERS: Final = frozenset({"first", "last", "lower", "upper", "trim", "length", "string", "int"})
_TESTS: Final = frozenset({"defined", "undefined", "none", "in", "eq", "ne", "equalto", "sameas", "string", "number"})


def fill(text: str, point: Mapping[str, AxisValue]) -> str:
    """Fill the axes into a requirement.

    Raises:
        TemplateError: it is not Jinja, asks for an axis that is not there, or does more than a requirement needs.
        ValueError: the result is absurdly long.
    """
    try:
        filled = _compiled(text).render(dict(point)).strip()
    except (ArithmeticError, TypeError, LookupError, RecursionError) as error:
        raise TemplateError(f"it cannot be filled in: {error}") from error
    if len(filled) > MAX_LENGTH:
        raise ValueError(f"{text[:80]!r}: filled in it has {len(filled)} characters, more than {MAX_LENGTH}")
    return filled


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Template:
    _check(text)
    return _JINJA.from_string(text)


def _check(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise TemplateError(f"it has {len(text)} characters, more than {MAX_LENGTH}")
    for node in _parsed(text).find_all(nodes.Node):
        line = node.lineno or 1
        match node:
            case nodes.Call() if not (isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS):
                raise TemplateSyntaxError(f"only these can be called: {', '.join(sorted(_METHODS))}", line)
            case nodes.Filter() if node.name not in _FILTERS:
                raise TemplateSyntaxError(f"no filter {node.name!r} here; known: {', '.join(sorted(_FILTERS))}", line)
            case nodes.Test() if node.name not in _TESTS:
                raise TemplateSyntaxError(f"no test {node.name!r} here; known: {', '.join(sorted(_TESTS))}", line)
            case _ if not isinstance(node, _ALLOWED):
                what = type(node).__name__
                raise TemplateSyntaxError(f"{what} is not allowed in a requirement: axes, `if` and text are", line)
            case _:
                pass


def _parsed(text: str) -> nodes.Template:
    try:
        return _JINJA.parse(text)
    except RecursionError as error:
        raise TemplateError("it is nested too deeply") from error


@lru_cache(maxsize=4096)
def names_in(text: str) -> Collection[str]:
    """Return the names that a requirement asks for; of one that cannot be filled in none, since filling it in fails."""
    try:
        _check(text)
        return sorted(meta.find_undeclared_variables(_parsed(text)))
    except TemplateError:
        return ()
