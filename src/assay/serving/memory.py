"""Memory of one card shared out among one or several servers, checked before anything is started."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assay.engines.table import engine_named
from assay.errors import UsageError
from assay.serving.modelshape import ModelShape

__all__ = ["CONTEXT_BYTES", "GRAPH_BYTES", "MemoryPlan", "Share", "Tenant", "plan_memory"]

GIB: Final = 1 << 30
CONTEXT_BYTES: Final = int(0.9 * GIB)
"""CUDA context, libraries and workspaces of one server, beside what it reports; measured values differ by engine."""
GRAPH_BYTES: Final = int(0.6 * GIB)
"""CUDA graphs of one server; the users' documents give 0.89 GiB for 116 graphs."""
_LEFT_ALONE: Final = 0.06
_LEFT_SHARED: Final = 0.20
"""The share of the card that stays free; the users leave a fifth where models share a card."""
_PREFILL: Final = 8192


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A server that wants room on the card."""

    name: str
    engine: str
    shape: ModelShape
    context: int
    """Tokens of the longest request."""
    requests: int
    """Requests at once; the cache need not hold them all at full length."""
    graphs: bool = True
    prefill: int = _PREFILL
    """Tokens of the largest prefill."""
    pool: int | None = None
    """The most tokens that the cache is to hold."""
    fraction: float | None = None
    """A share of the card that was asked for; it is checked, not chosen."""
    windowed: bool = False
    """The server keeps no more of the layers with a sliding window than they need."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Cache for each token of a request of full length."""
        if self.windowed and self.shape.sliding:
            return math.ceil(self.shape.windowed_bytes(self.context, self.prefill) / self.context)
        return self.shape.kv_bytes_per_token


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one server gets, bytes."""

    name: str
    weights: int
    cache: int
    cache_tokens: int
    activations: int
    graphs: int
    context: int
    """CUDA context."""
    fraction: float
    """The engine's own flag, which means what `ServingEngine.memory_base` says."""

    @property
    def total(self) -> int:
        """Everything it takes of the card."""
        return self.weights + self.cache + self.activations + self.graphs + self.context


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The card and its shares."""

    card: int
    shares: tuple[Share, ...]
    free: int
    """What stays free, bytes."""
    notes: tuple[str, ...] = ()

    def table(self) -> list[tuple[str, ...]]:
        """Return rows of text, GiB: server, weights, cache, tokens in the cache, the rest, total, fraction."""
        rows = [
            (
                share.name,
                _gib(share.weights),
                _gib(share.cache),
                str(share.cache_tokens),
                _gib(share.activations + share.graphs + share.context),
                _gib(share.total),
                f"{share.fraction:.3f}",
            )
            for share in self.shares
        ]
        return [*rows, ("free", "", "", "", "", _gib(self.free), f"{self.free / self.card:.3f}")]


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"


def _fixed(tenant: Tenant) -> tuple[int, int]:
    return tenant.shape.activation_bytes(tenant.prefill, tenant.requests), GRAPH_BYTES if tenant.graphs else 0


def plan_memory(card: int, tenants: Sequence[Tenant], *, system_share: float = 0.0) -> MemoryPlan:
    """Share a card of `card` bytes out among servers.

    Args:
        card: its memory, bytes.
        tenants: the servers.
        system_share: the part that is the system's, where CPU and GPU have one memory: it is there before any server.

    The servers start in this order, each when the one before it is healthy. Every server gets its weights, its fixed
    needs, and cache for at least one request of full length. What is left above the reserve is shared out by what
    each could use: all its requests at full length, and no more.

    Raises:
        UsageError: they do not fit; the message says what is needed, what is there and what would help.
    """
    system = int(card * system_share)
    reserve = max(system, int(card * (_LEFT_ALONE if len(tenants) == 1 else _LEFT_SHARED)))
    least = {tenant.name: _least(tenant) for tenant in tenants}
    needed = sum(least.values())
    if needed > card - reserve:
        raise UsageError(_too_large(card, reserve, tenants, least), hint=_advice(tenants, card - reserve))
    spare = card - reserve - needed
    wanted = {
        tenant.name: (_pool(tenant) - tenant.context) * tenant.kv_bytes_per_token
        for tenant in tenants
        if tenant.fraction is None
    }
    total_wanted = sum(wanted.values())
    shares: list[Share] = []
    for tenant in tenants:
        more = 0
        if tenant.fraction is None and total_wanted:
            more = min(wanted[tenant.name], spare * wanted[tenant.name] // total_wanted)
        shares.append(_share(card, tenant, more, before=system + sum(share.total for share in shares)))
    used = sum(share.total for share in shares)
    if used > card - reserve:
        over = {share.name: share.total for share in shares}
        raise UsageError(_too_large(card, reserve, tenants, over), hint=_advice(tenants, card - reserve))
    notes = tuple(
        f"{tenant.name}: the size of the weights is estimated from the configuration" for tenant in tenants
        if tenant.shape.estimated
    )  # fmt: skip
    if system:
        text = f"CPU and GPU share this memory: {_gib(system)} of {_gib(card)} GiB are left to the system"
        notes = (f"{text} and its page cache", *notes)
    return MemoryPlan(card=card, shares=tuple(shares), free=card - used, notes=notes)


def _least(tenant: Tenant) -> int:
    activations, graphs = _fixed(tenant)
    cache = tenant.context * tenant.kv_bytes_per_token
    return tenant.shape.weight_bytes + cache + activations + graphs + CONTEXT_BYTES


def _pool(tenant: Tenant) -> int:
    """Return the tokens that a server's cache could use: all requests at full length, or the pool it asks for."""
    all_requests = max(tenant.requests, 1) * tenant.context
    return max(tenant.context, min(all_requests, tenant.pool) if tenant.pool is not None else all_requests)


def _share(card: int, tenant: Tenant, more: int, *, before: int) -> Share:
    activations, graphs = _fixed(tenant)
    shape = tenant.shape
    base, outside = engine_named(tenant.engine).memory_base(card, before, activations + graphs, CONTEXT_BYTES)
    least = tenant.context * tenant.kv_bytes_per_token
    cache = least + more
    fraction = math.ceil((shape.weight_bytes + cache + outside) / base * 1000) / 1000
    if tenant.fraction is not None:
        fraction = tenant.fraction
        cache = int(base * fraction) - shape.weight_bytes - outside
        if cache < least:
            need = shape.weight_bytes + least + outside
            raise UsageError(
                f"{tenant.name}: {fraction:g} of {_gib(base)} GiB is {_gib(int(base * fraction))} GiB, "
                f"but weights and one request of {tenant.context} tokens need {_gib(need)} GiB",
                hint=f"give it {math.ceil(need / base * 100) / 100:g}, or a shorter context",
            )
        if tenant.pool is not None:
            cache = min(cache, tenant.pool * tenant.kv_bytes_per_token)
    return Share(
        name=tenant.name,
        weights=shape.weight_bytes,
        cache=cache,
        cache_tokens=cache // tenant.kv_bytes_per_token,
        activations=activations,
        graphs=graphs,
        context=CONTEXT_BYTES,
        fraction=fraction,
    )


def _too_large(card: int, reserve: int, tenants: Sequence[Tenant], needs: dict[str, int]) -> str:
    subject = "the model does" if len(tenants) == 1 else "the models do"
    room = f"of the card's {_gib(card)} GiB {_gib(card - reserve)} may be used"
    lines = [f"{subject} not fit: {_gib(sum(needs.values()))} GiB are needed, and {room}"]
    for tenant in tenants:
        cache = tenant.context * tenant.kv_bytes_per_token
        lines.append(
            f"  {tenant.name}: {_gib(needs[tenant.name])} GiB, of it weights {_gib(tenant.shape.weight_bytes)}, "
            f"cache for one request of {tenant.context} tokens {_gib(cache)}"
        )
    return "\n".join(lines)


def _advice(tenants: Sequence[Tenant], room: int) -> str:
    weights_fit = sum(tenant.shape.weight_bytes for tenant in tenants) < room
    if weights_fit and any(tenant.context > 4096 for tenant in tenants):
        return "a shorter --context, a model in 4 bits, or --memory-gib of a larger card"
    fewer = "fewer models, " if len(tenants) > 1 else ""
    return f"a model in 4 bits, {fewer}or --memory-gib of a larger card"
