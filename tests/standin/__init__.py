"""A stand-in for the Messages API: real sockets, real shapes, invented counts.

    from standin import StandIn

    with StandIn() as api:
        client = anthropic.Anthropic(base_url=api.url, api_key="any")

Its counter is deterministic and joins text across borders; its prompt cache reads, writes and
forgets. `api.script(...)` queues faults, `api.requests` holds what arrived. In another process:
`python -m standin --port 0` from this folder prints the address it listens on.
"""

from standin.answers import Answer, Reply, answer_error, answer_json
from standin.models import MODELS
from standin.server import Seen, StandIn, Step, fault, rate_limited

__all__ = [
    "MODELS",
    "Answer",
    "Reply",
    "Seen",
    "StandIn",
    "Step",
    "answer_error",
    "answer_json",
    "fault",
    "rate_limited",
]
