"""The words about gates: budgets whose limit is a rule about single calls and no amount."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Gate(NamedTuple):
    """What is said about one kind of gate.

    A gate that is kept says the same as a broken one, unless it has words of its own. The fields in
    braces: `{allowed}` and `{found}` are the verdict's lists; `{set_at}` is where it
    was set, as ` set at tests/test_rag.py:12`, and `{at}` the same without `set`; `{origin}` that
    place alone; `{calls}`, `{requests}`, `{guards}` and `{breaking}` its number with its noun;
    `{owners}` is whose calls they are, if no test's. In advice alone, `{budget}` is an amount that
    the calls keep, and `{recording}` what recording takes beside its mode.
    """

    limit: str
    """What stands for the limit in a table."""
    name: str
    broken: str
    short_broken: str
    kept: str = ""
    label: str = ""
    """What stands before each call that breaks it."""
    advice: str = ""


GATES: Mapping[str, Gate] = {
    "models": Gate(
        limit="{allowed}",
        name="list of allowed models",
        kept="all calls are of the allowed models {allowed}{set_at}",
        broken="{calls} of {found}, not one of the allowed models {allowed}{set_at}",
        short_broken="{found} is not allowed",
        label="not allowed",
        advice="Call an allowed model, or add {found} to the list of {origin}.",
    ),
    "unbudgeted": Gate(
        limit="none",
        name="rule that calls need a budget",
        kept="no call without a budget; {origin} requires one",
        broken="{calls} without a budget{owners}; {origin} requires one",
        short_broken="{calls} without a budget{owners}",
        label="no budget for",
        advice='Give the test a budget, for example @max_cost("{budget}"), or set llmcost_max_test '
        "or a path in llmcost_budgets.",
    ),
    "live": Gate(
        limit="not live",
        name="rule against live requests",
        kept="no request went live",
        broken="{requests} went live, against the rule{set_at}{owners}",
        short_broken="{requests} went live{owners}",
        label="went live",
        advice="Record a cassette (@pytest.mark.vcr and --record-mode=once{recording}), or allow "
        "this test to go live: @max_cost(live=True). The address of a stand-in that spends nothing "
        "belongs in llmcost_stand_ins.",
    ),
    "refused": Gate(
        limit="live cap",
        name="live cap",
        kept="no request refused by the live cap{set_at}",
        broken="{requests} {found}{set_at}",
        short_broken="{requests} {found}",
        label="the request",
        advice="Replay the request. If its worst case is too large, lower its max_tokens or raise "
        "the cap. A request whose cost nothing bounds is never sent.",
    ),
    "stable_prefix": Gate(
        limit="stable prefix",
        name="stable prefix",
        kept="no call breaks a cached prefix; a stable prefix is required{at}",
        broken="{breaking}: {found}; a stable prefix is required{at}",
        short_broken="cached prefix broken: {found}",
        label="not read",
        advice="Move what changes from call to call behind the last cache_control, keep tools, "
        "keys and settings the same, and set a cache_control at least every 19 blocks.",
    ),
    "vanished": Gate(
        limit="none",
        name="rule that guards stay",
        broken="{guards} of the baseline vanished; {origin} forbids it",
        short_broken="{guards} of the baseline vanished",
    ),
}
"""Limits on the largest single call or part are amounts, and so are not among them."""
