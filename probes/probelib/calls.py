"""Call functions whose parameters came and went over the releases, by name."""

import inspect

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
