"""Count: how many tokens a payload is, who asked, and what to do where nobody knows.

Data flow: a recorded entry or the API's answer -> Count; nothing recorded -> CountMissingError.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from pytest_llmcost.errors import CountMissingError
from pytest_llmcost.metering.api_error import explain_refusal
from pytest_llmcost.metering.cassette import CountCassette, Entry
from pytest_llmcost.metering.count_file import show_path
from pytest_llmcost.metering.countable import countable
from pytest_llmcost.metering.payload import Payload, changed_parts, describe_changes
from pytest_llmcost.metering.refusal import sampling_tools

Mode = Literal["none", "once", "new_episodes", "all", "rewrite", "live"]
MODES: tuple[Mode, ...] = ("none", "once", "new_episodes", "all", "rewrite", "live")
"""pytest-recording's, and `live` (--disable-recording): count, read nothing, write nothing."""


_LONGEST_REFUSAL = 300


class Asker(NamedTuple):
    """Who counts: a test's node id, or a fixture's name."""

    name: str
    """As it stands in the cassette."""
    run: str | None = None
    """What to give to pytest to have it counted; nothing where it is the name."""
    options: tuple[str, ...] = ()
    """Further options that the count needs, `--llmcost-model X` say."""

    @property
    def command(self) -> str:
        """The exact command that records its counts."""
        words = ["pytest", self.run or self.name, *self.options]
        return f"{shlex.join(words)} --llmcost-record-mode=new_episodes"


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a payload is."""

    input_tokens: int
    """The whole prompt; a lower bound where something is left out."""
    model: str
    fingerprint: str
    parts: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    recorded: bool = False
    """From a cassette, not from the API in this run."""


class Answer(NamedTuple):
    """What the API says, or once said."""

    input_tokens: int
    left_out: tuple[str, ...]


def recorded_answer(entry: Entry) -> Answer:
    """What the API once said.

    Raises:
        CountError: it refused the payload.
    """
    if entry.refused is not None:
        raise explain_refusal(entry.refused, entry.model)
    return Answer(entry.input_tokens, entry.left_out)


def make_entry(payload: Payload, answer: Answer, asker: Asker) -> Entry:
    """What goes into the cassette: digests and numbers, none of the payload's text."""
    return Entry(
        fingerprint=payload.fingerprint,
        model=payload.model,
        asked_by=(asker.name,),
        parts=payload.parts,
        left_out=answer.left_out,
        input_tokens=answer.input_tokens,
    )


def make_refusal(payload: Payload, said: str, asker: Asker) -> Entry:
    """What goes into the cassette of a payload that the API does not take for this model."""
    return Entry(
        fingerprint=payload.fingerprint,
        model=payload.model,
        asked_by=(asker.name,),
        parts=payload.parts,
        refused=said[:_LONGEST_REFUSAL],
    )


def make_count(payload: Payload, answer: Answer, *, recorded: bool) -> Count:
    """The count of a payload, with what makes it a bound."""
    return Count(
        input_tokens=answer.input_tokens,
        model=payload.model,
        fingerprint=payload.fingerprint,
        parts=payload.parts,
        left_out=answer.left_out,
        caveats=_caveats(payload, answer.left_out),
        recorded=recorded,
    )


def _caveats(payload: Payload, left_out: tuple[str, ...]) -> tuple[str, ...]:
    counted, unknown = countable(payload.body, beta=True)
    sampled = sorted(
        {name for name in sampling_tools(counted)} - {part.partition(".")[2] for part in left_out}
    )
    return tuple(
        sorted(
            [
                *(f"left-out: {part}" for part in left_out),
                *(f"unknown-field: {key}" for key in unknown),
                *(f"first-call-only: {name}" for name in sampled),
            ]
        )
    )


def explain_missing(
    payload: Payload, cassette: CountCassette, mode: Mode, asker: Asker
) -> CountMissingError:
    """Say what changed against the nearest recorded payload, and the command that records it."""
    nearest = cassette.nearest(payload.parts, asker.name)
    changed = tuple(changed_parts(nearest.parts, payload.parts)) if nearest else ()
    where = show_path(cassette.path)
    if nearest is None:
        compared = f"{where} holds no counts yet"
    else:
        others = "" if asker.name in nearest.asked_by else f" of {nearest.asked_by[0]}"
        compared = (
            f"changed against the nearest payload{others} in {where}: "
            f"{describe_changes(changed) or 'only what has no digest'}"
        )
    return CountMissingError(
        f"no recorded token count for this payload of {payload.model} "
        f"({payload.fingerprint[:10]}, record mode {mode}); {compared}. "
        f"Count it, free of charge: {asker.command}",
        fingerprint=payload.fingerprint,
        changed=changed,
        command=asker.command,
    )
