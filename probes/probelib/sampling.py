"""What a sampler may choose: sampled tokens against the reference's distribution. No torch: rows are plain lists."""

import math

ROUNDING = 0.02
"""How much of the probability the engine's rounding may move into the tokens ahead of one."""


def impossible(row, token, *, temperature, top_k=0, top_p=1.0, min_p=0.0, slack=0.3):
    """Return why a token cannot have been sampled from a row of log-probabilities; "" if it can.

    slack: how many nats (after the temperature) the engine's rounding may move one token against another. A token at
    the edge of the nucleus may be in or out; one far behind the edge has no business there.
    """
    scaled = [value / temperature for value in row]
    highest = max(scaled)
    total = math.log(sum(math.exp(value - highest) for value in scaled)) + highest
    own = scaled[token]
    ahead = sorted((value for value in scaled if value > own + slack), reverse=True)
    if top_k and len(ahead) >= top_k:
        return f"{len(ahead)} tokens are likelier, top-k is {top_k}"
    if min_p and highest - own > slack - math.log(min_p):
        return f"it has {math.exp(own - highest):.3g} of the likeliest's probability, min-p is {min_p:g}"
    # Engines cut the nucleus from what top-k leaves: a share of that is no smaller than the share of everything.
    mass = sum(math.exp(value - total) for value in ahead)
    if top_p < 1 and mass >= top_p + ROUNDING:
        return f"likelier tokens hold {mass:.1%} of the probability, top-p is {top_p:g}"
    return ""


def alike(one, other):
    """Return how many tokens two answers have in common from their start."""
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
