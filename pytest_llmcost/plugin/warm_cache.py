"""What `cache="warm"` gives the calls of one test.

It assumes that the same prompts were sent a moment ago, for example by the last run of the test. So
the first call of a group, which is one model and one first cached block, is read, and so is each
later one that contains what an earlier one has cached. A later call whose prefix differs is read as
far as an earlier one has written it, and the rest is written, which is what the API bills for it.
The first call then keeps the assumption if the difference was made by an edit or another order: the
last run will have sent the same bytes. It does not if the two differ in nothing but a clock or a
random id: no run sends these twice. Then no call of the group, the first included, can read more
than what stands before that, or was written in this run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pytest_llmcost.call import BrokenPrefix, Call, Evidence
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.counting.prefixes import Break, CachedPrefixes, PrefixGroup, Readable
from pytest_llmcost.counting.segments import CachedPrompt
from pytest_llmcost.money import EXACT

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest
    from pytest_llmcost.responses.message import Answer


@dataclass(eq=False)
class RecordedCall:
    """A call in the ledger, with what it takes to price it again or to take it back."""

    call: Call
    said: Answer
    """What its reply said, before its prompt was counted anew."""
    blocks: Sequence[list[Call]]
    """The `budget(...)` blocks that it counts for."""
    prefix: Readable | None = None
    """How much of its cached prefix the calls of its owner let it read; None if it has none."""
    prompt: CachedPrompt | None = None
    captured: CapturedRequest | None = None
    """What it was captured as, if it may turn out otherwise."""


class WarmCache:
    """What the calls of one owner have cached, and which of them are assumed to be read."""

    def __init__(
        self, reprice: Callable[..., Call], least_cacheable: Callable[[str], int | None]
    ) -> None:
        """Begin without calls; `reprice` prices one again, in another `cache_state` if given."""
        self._reprice = reprice
        self._least_cacheable = least_cacheable
        # A payload that is counted and then sent is one call, and must not seem to repeat itself.
        self._sent, self._counted = CachedPrefixes(), CachedPrefixes()
        self._assumed: dict[PrefixGroup, list[RecordedCall]] = {}
        """The calls of each group in which nothing was found to be volatile yet."""

    def note(self, payload: Payload, evidence: Evidence) -> Readable | None:
        """Add what a call caches; return how much of it the earlier ones let it read."""
        return (self._counted if evidence == "counted" else self._sent).note(payload)

    def admit(self, added: RecordedCall) -> list[tuple[RecordedCall, Call]]:
        """Limit a call that was just priced; return earlier ones that it limits, each as it is now.

        Those of its group are limited once it has shown that a block of theirs is volatile.
        """
        prefix, changed = added.prefix, list[tuple[RecordedCall, Call]]()
        if prefix is None:
            return changed
        if prefix.loses_nothing(self._least_cacheable(added.call.model)):
            prefix = added.prefix = prefix._replace(broken=None)
        assumed = self._assumed.setdefault(prefix.group, [])
        if not prefix.is_limited:
            assumed.append(added)
        else:
            added.call = self._limited(added, prefix)
            if prefix.broken is not None:
                broken = self._price_break(added.call, prefix.broken)
                added.call = replace(added.call, broken_prefix=broken)
        if prefix.volatile is not None:
            # It was billed as reading what they have written before the difference.
            stable = next((each.most_read_tokens or 0 for each in added.call.sampling_calls), 0)
            for each in [*assumed]:
                if each.prefix is not None and each.prefix.is_limited:
                    changed.append((each, self._limited(each, each.prefix, stable)))
                    assumed.remove(each)
        billed = added.call.sampling_calls if added.call.evidence == "billed" else ()
        if added.prompt is not None or billed:
            prefix.learn(added.prompt, sum(each.usage.cached_tokens for each in billed))
        return changed

    def forget(self, withdrawn: RecordedCall) -> None:
        """Forget a call that has turned out otherwise."""
        for assumed in self._assumed.values():
            assumed[:] = [each for each in assumed if each is not withdrawn]

    def _limited(self, recorded: RecordedCall, prefix: Readable, stable: int = 0) -> Call:
        """Limit what a call can read; `stable` tokens of it may be read in any case."""
        call, prompt = recorded.call, recorded.prompt
        usage, sampling_calls = call.usage, call.sampling_calls
        if sampling_calls and prompt is not None:
            (sampling,) = sampling_calls
            read = prefix.read_tokens(prompt)
            least = self._least_cacheable(call.model)
            read = 0 if least is not None and read < least else read
            if sampling.usage.cache_read_tokens:  # it is counted as warm
                usage = prompt.usage("warm", most_read=read)
                usage = replace(usage, output_tokens=sampling.usage.output_tokens)
                sampling = replace(sampling, usage=usage)
            sampling_calls = (replace(sampling, most_read_tokens=read),)
        else:  # the bill says what was read, and what was read can be read
            sampling_calls = tuple(
                replace(each, most_read_tokens=max(stable, each.usage.cache_read_tokens))
                for each in sampling_calls
            )
        return self._reprice(replace(call, usage=usage, sampling_calls=sampling_calls))

    def _price_break(self, call: Call, broken: Break) -> BrokenPrefix | None:
        """Say where a prefix breaks, and what that costs; None if nothing was cached."""
        sampling_calls, extra = call.sampling_calls, None
        is_cached = any(each.usage.cached_tokens for each in sampling_calls)
        # A mock says nothing of the cache, and neither does a count of the prompt alone.
        is_known = call.evidence != "mocked" and not any(each.may_cache for each in sampling_calls)
        if sampling_calls and is_known and not is_cached:
            return None  # for example because it is shorter than the model caches
        if is_cached:
            unlimited = tuple(replace(each, most_read_tokens=None) for each in sampling_calls)
            now = self._reprice(call, cache_state="warm")
            read = self._reprice(replace(call, sampling_calls=unlimited), cache_state="warm")
            if now.usd is not None and read.usd is not None:
                extra = EXACT.subtract(now.usd, read.usd)
        return BrokenPrefix(part=broken.part, character=broken.character, usd=extra)
