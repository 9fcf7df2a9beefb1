"""How much a run, or a test, may add to its baseline."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from pytest_llmcost.amounts import Amounts, Range
from pytest_llmcost.budgets.budget import Budget, Verdict, decide
from pytest_llmcost.money import EXACT, parse_share_or_usd

_ZERO = Decimal(0)


class IncreaseLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What may be added: an amount of money, or a share of the baseline."""

    usd: Decimal | None = None
    share: Decimal | None = None
    text: str
    """As the user wrote it."""
    origin: str = ""
    label: str = "max_increase"
    warn_at: Decimal | None = None

    def of(self, base: Decimal | None) -> Decimal | None:
        """Return what may be added to a baseline; None where that depends on what is unknown."""
        if self.usd is not None or not self.share:
            return self.usd or _ZERO
        return None if base is None else EXACT.multiply(base, self.share)


def parse_increase(
    text: str, *, origin: str = "", label: str = "max_increase", warn_at: Decimal | None = None
) -> IncreaseLimit:
    """Read a limit on an increase, `10%` or `$0.05`.

    Raises:
        SettingsError: when it is neither.
    """
    share, usd = parse_share_or_usd(text)
    return IncreaseLimit(
        usd=usd,
        share=share,
        text=text.strip(),
        origin=origin,
        label=label,
        warn_at=warn_at,
    )


def judge_increase(limit: IncreaseLimit, base: Amounts, change: Amounts) -> Verdict:
    """Judge what was added to a baseline; spending less is an increase of nothing.

    A share is one of the baseline's cost at today's prices. Where that is not exact, the limit
    lies between two bounds: the increase is exceeded above the higher one, and within the
    budget up to the lower one.
    """
    before, added = base["usd"], change["usd"]
    least, most = limit.of(before.low), limit.of(before.high)
    budget = Budget(
        scope="increase",
        limit=(least if before.best is None else limit.of(before.best)) or _ZERO,
        origin=limit.origin,
        label=f"{limit.label} {limit.text}",
        warn_at=limit.warn_at,
    )
    low, best, high = (
        None if bound is None else max(bound, _ZERO)
        for bound in (added.low, added.best, added.high)
    )
    return decide(budget, Range(low, best, high, added.reasons), least, most)
