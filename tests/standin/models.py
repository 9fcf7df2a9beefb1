"""The models that the stand-in serves, with what its counting and caching need to know of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """What differs between models: tokenizer, hidden tokens, caching, prefilled answers."""

    id: str
    letters_per_token: int
    """The 2026 tokenizer cuts finer: about 30 % more tokens for the same text."""
    opening_tokens: int
    """Tokens that open the answer; they are billed as input behind the last breakpoint."""
    min_cacheable_tokens: int
    tool_prompt_tokens: tuple[int, int]
    """Hidden system prompt when there are tools: choice left free, choice forced."""
    prefill: bool
    """Whether a conversation may end with the assistant's own words."""


def _new(id: str, least: int, tools: tuple[int, int]) -> Model:
    return Model(id, 3, 2, least, tools, prefill=False)


def _old(id: str, least: int, tools: tuple[int, int], *, opening: int = 3) -> Model:
    return Model(id, 4, opening, least, tools, prefill=True)


_ALL = (
    _new("claude-fable-5-2", 512, (286, 406)),
    _new("claude-opus-5-5", 512, (286, 286)),
    _new("claude-opus-5", 512, (286, 406)),
    _new("claude-opus-4-8", 1024, (290, 410)),
    _new("claude-opus-4-7", 2048, (675, 804)),
    _old("claude-opus-4-6", 4096, (497, 589)),
    _old("claude-opus-4-5-20251101", 4096, (496, 588)),
    _new("claude-sonnet-5-5", 512, (286, 286)),
    _new("claude-sonnet-5", 1024, (354, 474)),
    _old("claude-sonnet-4-6", 1024, (497, 589)),
    _old("claude-sonnet-4-5-20250929", 1024, (496, 588)),
    _old("claude-sonnet-4-20250514", 1024, (313, 315)),
    _new("claude-haiku-5-5", 512, (286, 406)),
    _old("claude-haiku-4-5-20251001", 4096, (496, 588)),
    _old("claude-3-5-haiku-20241022", 2048, (264, 355), opening=4),
)

_ALIASES = {
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-sonnet-4-0": "claude-sonnet-4-20250514",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-3-5-haiku-latest": "claude-3-5-haiku-20241022",
}

MODELS = {model.id: model for model in _ALL}


def find_model(name: str) -> Model | None:
    """The model of that id or alias, as the response will name it."""
    return MODELS.get(_ALIASES.get(name, name))
