"""May this actor use this resource now, and until when?"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.portal.conditions import Context, Holds, Violated, evaluate
from firezone.portal.config import Config, Policy, Resource, Token


@dataclass(frozen=True, slots=True)
class Allowed:
    """`expires_at` is Unix seconds."""

    resource: Resource
    expires_at: int


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Policies exist, but none conforms; these properties violate them."""

    violated_properties: frozenset[str]


@dataclass(frozen=True, slots=True)
class NotFound:
    """As far as this actor knows there is no such resource."""


Decision = Allowed | Forbidden | NotFound


def decide(config: Config, token: Token, resource_id: str, context: Context) -> Decision:
    """By the policy that lasts longest, and never beyond the client's token."""
    resource = config.resources.get(resource_id)
    policies = config.policies_for(token.owner, resource_id)
    assert token.expires_at is not None, "a client's token ends"
    if (
        resource is None
        or not resource.sites
        or not policies
        or not token.is_live(context.unix_now)
    ):
        return NotFound()
    violated: set[str] = set()
    ends: list[int] = []
    for policy in policies:
        match _evaluate(policy, context):
            case Holds(until):
                ends.append(token.expires_at if until is None else min(until, token.expires_at))
            case Violated(properties):
                violated |= properties
    return Allowed(resource, max(ends)) if ends else Forbidden(frozenset(violated))


def offered(config: Config, token: Token, context: Context) -> dict[str, Resource]:
    """All that the actor may use now, by id."""
    decisions = (decide(config, token, id, context) for id in config.resources)
    return {d.resource.id: d.resource for d in decisions if isinstance(d, Allowed)}


def _evaluate(policy: Policy, context: Context) -> Holds | Violated:
    outcome = evaluate(policy.conditions, context)
    if policy.expires_at is None:
        return outcome
    if policy.expires_at <= context.unix_now:
        return Violated(frozenset({"current_utc_datetime"}))
    if isinstance(outcome, Holds):
        return Holds(min(policy.expires_at, outcome.until or policy.expires_at))
    return outcome
