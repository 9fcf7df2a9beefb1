"""The call itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triage.prompt import build_payload

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import Message


def triage(client: Anthropic, ticket: str, *, history: list[str] | None = None) -> Message:
    """Ask Claude to triage a ticket."""
    return client.messages.create(**build_payload(ticket, history=history))
