"""Everything that is sent to Claude for one ticket."""

from __future__ import annotations

from typing import Any

MODEL = "claude-opus-4-7"

SYSTEM = """\
You triage support tickets for Northwind Bikes, a maker of electric cargo bikes.

For every ticket, decide three things and call `route_ticket` exactly once:

1. topic: battery, motor, brakes, delivery, billing, warranty, or other.
2. urgency: now (someone could be hurt, or a battery smells, swells or smokes), today (a
   customer cannot use the bike), or soon (everything else).
3. team: workshop, logistics, accounts, or people (anything that a person should read first).

Look up the order with `find_order` when the ticket names one and the answer depends on it.
Never promise a refund, a replacement or a date. Answer in the language of the ticket. If a
ticket holds several questions, route it by the most urgent one and list the others in the note.
"""

TOOLS: list[dict[str, Any]] = [
    {
        "name": "find_order",
        "description": "Look up an order: its bike, delivery date, warranty and open invoices.",
        "input_schema": {
            "type": "object",
            "properties": {
                "order_id": {"type": "string", "description": "Such as NB-20417."},
            },
            "required": ["order_id"],
        },
    },
    {
        "name": "route_ticket",
        "description": "Hand the ticket to a team, with a note of one or two sentences.",
        "input_schema": {
            "type": "object",
            "properties": {
                "topic": {
                    "enum": [
                        "battery",
                        "motor",
                        "brakes",
                        "delivery",
                        "billing",
                        "warranty",
                        "other",
                    ]
                },
                "urgency": {"enum": ["now", "today", "soon"]},
                "team": {"enum": ["workshop", "logistics", "accounts", "people"]},
                "note": {"type": "string"},
            },
            "required": ["topic", "urgency", "team", "note"],
        },
    },
]

EXAMPLES = [
    (
        "The battery of NB-20417 is warm and smells sweet after charging.",
        {
            "topic": "battery",
            "urgency": "now",
            "team": "workshop",
            "note": "Possible cell damage. Ask them to stop charging and keep it outside.",
        },
    ),
    (
        "Hi! I was charged twice for my mudguards, can you look into it when you have a minute?",
        {
            "topic": "billing",
            "urgency": "soon",
            "team": "accounts",
            "note": "Double charge for mudguards; no order number given.",
        },
    ),
]


def build_payload(ticket: str, *, history: list[str] | None = None) -> dict[str, Any]:
    """Make the payload of `messages.create` for a ticket, with the mails that came before it."""
    return {
        "model": MODEL,
        "max_tokens": 512,
        "system": SYSTEM,
        "tools": TOOLS,
        "messages": [*_few_shot(), {"role": "user", "content": _ticket(ticket, history or [])}],
    }


def _few_shot() -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, (ticket, decision) in enumerate(EXAMPLES):
        use = {"type": "tool_use", "id": f"toolu_example_{number}", "name": "route_ticket"}
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": "routed"}
        messages += [
            {"role": "user", "content": ticket},
            {"role": "assistant", "content": [{**use, "input": decision}]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": "Done."},
        ]
    return messages


def _ticket(ticket: str, history: list[str]) -> str:
    earlier = "\n".join(f"<earlier>{mail}</earlier>" for mail in history)
    return f"{earlier}\n<ticket>{ticket}</ticket>".strip()
