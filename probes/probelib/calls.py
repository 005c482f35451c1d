"""Call functions whose parameters came and went over the releases, by name, and functions that may refuse at first."""

import inspect
import time

from probelib.context import NotRun


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
