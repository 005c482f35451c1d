"""Use packages whose functions and parameters come and go over the releases, and see what a release lacks."""

import argparse
import inspect
import os
import re
import time

from probelib.context import NotRun

PROBES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIGNATURE = re.compile(
    r"unexpected keyword argument|required (?:positional|keyword-only) argument|positional arguments? but "
    r"|multiple values for argument|takes no (?:keyword )?arguments"
)
"""How Python says that a call and a function do not fit."""
SCHEMA = re.compile(
    r"is missing value for argument|expected at most \d+ argument|unknown keyword argument|expected a value of type",
    re.IGNORECASE,
)
"""How PyTorch says that a call and an operation do not fit."""


def names_of(constructor):
    """Return the names of the arguments that a constructor documents, or an empty set if it tells none.

    They are told by its signature, which data classes and msgspec's structures have too, or by the options that it
    adds to a command line.
    """
    try:
        parameters = inspect.signature(constructor).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not names and hasattr(constructor, "add_cli_args"):
        parser = argparse.ArgumentParser(add_help=False)
        constructor.add_cli_args(parser)
        names = {action.dest for action in parser._actions}
    return names


def missing_api(error):
    """Return what a package lacks that a probe asked it for, as the error tells; "" if the error tells of a fault.

    A release that renamed a function or took an argument away raises where the probe uses it: in the probe's own code.
    What is raised deeper, or by a library that does not load, is the package's own fault.
    """
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append(step.tb_frame.f_code)
        step = step.tb_next
    own = max((at for at, code in enumerate(frames) if _is_own(code)), default=None)
    if own is None or not _lacks(error, frames[own + 1 :]):
        return ""
    return f"{type(error).__name__}: {error}"[:600]


def _lacks(error, within):
    """Whether an error says that something is not there for the probe; within: the code below the probe's own."""
    text = str(error)
    if isinstance(error, AttributeError):
        # Operations of torch are there if the library that registers them loaded: that it did is not known here.
        asked = all(code.co_name in ("__getattr__", "__getattribute__") for code in within)
        return asked and "_OpNamespace" not in text
    if isinstance(error, TypeError):
        return not within or (SIGNATURE.search(text) is not None and all(map(_hands_on, within)))
    if isinstance(error, KeyError):
        # A field that an answer had; a key that is no name is a value, which an engine may well have got wrong.
        return not within and isinstance(error.args[0], str)
    if isinstance(error, ModuleNotFoundError):
        return all("importlib" in code.co_filename for code in within)
    if isinstance(error, ImportError):
        return not within and "cannot import name" in text
    if isinstance(error, RuntimeError):
        in_torch = all(code.co_filename.endswith(os.path.join("torch", "_ops.py")) for code in within)
        return bool(within) and in_torch and SCHEMA.search(text) is not None
    return False


def _is_own(code):
    return os.path.abspath(code.co_filename).startswith(PROBES + os.sep)


def _hands_on(code):
    """Whether a function takes whatever it is given: a wrapper, whose error is that of the call it hands on."""
    return bool(code.co_flags & inspect.CO_VARARGS and code.co_flags & inspect.CO_VARKEYWORDS)


def call(function, **arguments):
    """Call a function with those of the arguments that its version knows.

    Raises NotRun (`API not found`) if it wants a parameter that nobody gave.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return function(**arguments)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return function(**arguments)
    wanted = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in arguments
        and parameter.kind is not parameter.VAR_POSITIONAL
    ]  # fmt: skip
    if wanted:
        name = getattr(function, "__name__", "function")
        raise NotRun(f"API not found: {name} of this version wants {', '.join(wanted)}")
    return function(**{name: value for name, value in arguments.items() if name in parameters})


def flushed(empty, *, seconds=20.0, pause=0.2):
    """Empty an engine's cache, asking again while it refuses; RuntimeError if it does so for longer than `seconds`.

    Engines refuse while something is pending, which the last answer does not rule out: SGLang's hierarchical cache
    goes on writing to the host's memory. They say so by False (vLLM) or an answer with `success` (SGLang); versions
    that say nothing are believed.
    """
    ends = time.monotonic() + seconds
    while True:
        said = empty()
        if getattr(said, "success", said) is not False:
            return
        if time.monotonic() > ends:
            raise RuntimeError(f"the engine did not empty its cache within {seconds:g} s")
        time.sleep(pause)
