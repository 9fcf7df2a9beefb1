from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.money import (
    EXACT,
    format_share,
    format_usd,
    format_whole_usd,
    parse_percent,
    parse_quantity,
    parse_usd,
    plain_usd,
)

AMOUNTS: st.SearchStrategy[Decimal] = st.builds(
    lambda digits, places: Decimal(digits).scaleb(-places),
    st.integers(min_value=0, max_value=10**18),
    st.integers(min_value=0, max_value=20),
)


class OddFloat(float):
    def __repr__(self) -> str:
        return f"odd.float({float(self)})"


@pytest.mark.parametrize(
    ("written", "usd"),
    [
        (0.02, "0.02"),
        (0.1 + 0.2, "0.30000000000000004"),
        (3, "3"),
        (0, "0"),
        (Decimal("0.020"), "0.02"),
        (Decimal("-0"), "0"),
        ("0.02", "0.02"),
        ("$0.02", "0.02"),
        (" $0.02 ", "0.02"),
        (".5", "0.5"),
        ("5.", "5"),
        ("2c", "0.02"),
        ("2 ¢", "0.02"),
        ("0.5c", "0.005"),
        ("$1,250.50", "1250.5"),
        (OddFloat(0.5), "0.5"),
        (0.00001, "0.00001"),
        (str(0.0000125), "0.0000125"),
    ],
)
def test_an_amount_is_read_as_it_is_written(written: object, usd: str) -> None:
    assert plain_usd(parse_usd(written)) == usd


@pytest.mark.parametrize(
    "written",
    [
        "cheap", "", "-1", "$-1", "1$", "0.02 USD", "1e-3", "0x1", "٣", "c", "$", "1..2", "2cc",
        "$2c", "1_0_", "1_000", "$1_0", "1_0c", "1._0",
        "\uff11\uff10", "²", "1 0", "Infinity", "NaN", "+1",
        None, True, False, [], b"1", -1, -0.5, Decimal(-1),
        float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN"),
        "9" * 41, Decimal("1E+50"), Decimal("1E-50"), 10**40,
    ],
)  # fmt: skip
def test_what_is_no_amount_says_how_to_write_one(written: object) -> None:
    with pytest.raises(SettingsError, match=r"is not an amount of money; write 0\.05 or 5c$"):
        parse_usd(written)


@pytest.mark.parametrize("written", ["bash.05", "-zsh.50", "/usr/bin/sh.1", "/tmp/run.sh.05"])
def test_a_shells_name_for_a_dollar_and_a_zero_is_told_of_quotes(written: str) -> None:
    with pytest.raises(SettingsError, match=r"write 0\.05 or 5c \(in a shell, \$0\.05 needs"):
        parse_usd(written)


def test_a_number_of_absurd_size_is_refused() -> None:
    """Python writes none of more than 4,300 digits."""
    for read in (parse_usd, parse_quantity):
        with pytest.raises(SettingsError, match="a number of thousands of digits is not a"):
            read(10**5_000)


@pytest.mark.parametrize(
    "written",
    [
        "$0,02",
        "0,02",
        "0,020",
        "1,5",
        "1,50c",
        "1,0000",
        "1,000,00",
        "1_0,000",
        "1,",
        ",5",
        "1.0,5",
    ],
)
def test_a_decimal_comma_is_never_read_as_thousands(written: str) -> None:
    with pytest.raises(SettingsError, match="decimals stand behind a point"):
        parse_usd(written)
    with pytest.raises(SettingsError, match="decimals stand behind a point"):
        parse_quantity(written.strip("$c"))
    with pytest.raises(SettingsError, match="decimals stand behind a point"):
        parse_percent(f"{written.strip('$c')}%")


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        (8000, 8000), (0, 0), ("8000", 8000), ("8,000", 8000), ("8k", 8000),
        ("8 K", 8000), ("1.5M", 1_500_000), ("0.0005k", None), ("1.2345k", None), ("1.234k", 1234),
        (-1, None), ("-1", None), (8000.0, None), (True, None), ("8g", None), ("", None),
        (None, None), ("8_000", None), ("8_k", None), ("\uff18", None), ("8 0", None),
        ("1e3", None),
        ("Infinity", None), ("NaN", None),
        ("9" * 41, None), ("9" * 40, 10**40 - 1), ("9" * 39 + "k", None),
    ],
)  # fmt: skip
def test_a_quantity_is_a_whole_number(written: object, tokens: int | None) -> None:
    if tokens is not None:
        assert parse_quantity(written) == tokens
        return
    with pytest.raises(SettingsError, match="is not a whole number"):
        parse_quantity(written)


@pytest.mark.parametrize(
    ("written", "share"),
    [("80%", "0.8"), ("12.5 %", "0.125"), (" 0% ", "0"), ("150%", "1.5"), (".5%", "0.005")],
)
def test_a_percentage_is_a_share(written: str, share: str) -> None:
    assert parse_percent(written) == Decimal(share)


@pytest.mark.parametrize(
    "written",
    ["80", "%", "-1%", "$5%", "5c%", "a%", "1e2%", "8_0%", "\uff18%", "8 0%", "9" * 50 + "%",
     "9" * 5_000],
)  # fmt: skip
def test_what_is_no_percentage_says_so(written: str) -> None:
    with pytest.raises(SettingsError, match="is not a percentage"):
        parse_percent(written)


@pytest.mark.parametrize(("text", "shown"), [("25", "25%"), ("0.25", "80%")])
def test_a_number_alone_is_shown_as_the_percentage_that_was_meant(text: str, shown: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_percent(text)
    assert str(caught.value) == f"'{text}' is not a percentage; write {shown}"


@pytest.mark.parametrize(
    ("usd", "text"),
    [("0", "0"), ("-0.00", "0"), ("1.500E-7", "0.00000015"), ("1E+3", "1000"), ("10.00", "10"),
     ("100", "100"), ("0.10", "0.1"), ("-1.50", "-1.5")],
)  # fmt: skip
def test_a_file_gets_plain_digits(usd: str, text: str) -> None:
    assert plain_usd(Decimal(usd)) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [("0", "$0.00"), ("-0.00", "$0.00"), ("0.0312", "$0.0312"), ("0.03124", "$0.0312"),
     ("0.03125", "$0.0312"), ("0.031251", "$0.0313"), ("1.5", "$1.50"), ("2", "$2.00"),
     ("0.00001", "$0.00001"), ("0.0000149", "$0.000015"), ("0.000057", "$0.000057"),
     ("0.0000999", "$0.0001"), ("0.000123", "$0.0001"), ("1234567.891", "$1,234,567.891"),
     ("-0.5", "-$0.50"), ("1E+3", "$1,000.00"), ("0.00000000000001", "$0.00000000000001")],
)  # fmt: skip
def test_a_person_gets_four_decimals_or_what_it_takes_not_to_read_zero(usd: str, text: str) -> None:
    assert format_usd(Decimal(usd)) == text


@pytest.mark.parametrize(
    ("usd", "limit", "text"),
    [
        ("0.02", "0.02", "$0.02"),
        ("0.0200004", "0.02", "$0.0200004"),
        ("0.0199999", "0.02", "$0.0199999"),
        ("0.03", "0.02", "$0.03"),
        ("0.00001", "0", "$0.00001"),
        ("0.02000000001", "0.02", "$0.02000000001"),
        ("0.009901", "0.009901", "$0.009901"),
    ],
)
def test_beside_a_ceiling_an_amount_shows_on_which_side_it_is(
    usd: str, limit: str, text: str
) -> None:
    assert format_usd(Decimal(usd), against=Decimal(limit)) == text


def test_a_ceiling_shows_every_digit_that_was_set() -> None:
    assert format_whole_usd(Decimal("0.00123456")) == "$0.00123456"
    assert format_whole_usd(Decimal("1E-7")) == "$0.0000001"
    assert format_whole_usd(Decimal(1)) == "$1.00"


def shown(text: str) -> Decimal:
    return Decimal(text.replace("$", "").replace(",", ""))


@given(AMOUNTS)
def test_what_is_not_zero_never_shows_as_zero(amount: Decimal) -> None:
    assert bool(shown(format_usd(amount))) == bool(amount)


@given(AMOUNTS, AMOUNTS)
def test_an_amount_never_shows_on_the_wrong_side_of_its_ceiling(
    amount: Decimal, limit: Decimal
) -> None:
    true = (amount > limit) - (amount < limit)
    seen = shown(format_usd(amount, against=limit))
    for ceiling in (format_whole_usd(limit), format_usd(limit, against=amount)):
        assert (seen > shown(ceiling)) - (seen < shown(ceiling)) == true


@given(AMOUNTS)
def test_plain_digits_read_back_to_the_same_amount(amount: Decimal) -> None:
    text = plain_usd(amount)
    assert "e" not in text.lower()
    assert not ("." in text and text.endswith("0"))
    assert parse_usd(text) == amount


@given(AMOUNTS, st.integers(min_value=1, max_value=6))
def test_the_callers_own_decimal_context_changes_nothing(amount: Decimal, prec: int) -> None:
    text = plain_usd(amount)
    before = (parse_usd(text + "c"), format_usd(amount), format_share(amount, Decimal("0.7")))
    with localcontext() as context:
        context.prec = prec
        after = (parse_usd(text + "c"), format_usd(amount), format_share(amount, Decimal("0.7")))
        assert parse_quantity("1.234567M") == 1_234_567
        assert parse_percent("12.34567%") == Decimal("0.1234567")
        assert EXACT.add(Decimal(10**12), Decimal("0.000001")) == Decimal("1000000000000.000001")
    assert after == before


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [("1", "1", "100%"), ("0.999", "1", "99%"), ("1.0001", "1", "101%"), ("0", "1", "0%"),
     ("0.5", "0", "-"), ("0", "0", "-"), ("2", "1", "200%"), ("1E+30", "1E-10", f"1{',000' * 14}%"),
     ("0." + "9" * 35, "1", "99%"), ("0.755", "1", "76%"), ("1.494", "1", "149%"),
     ("0.004", "1", "<1%"), ("0.005", "1", "<1%"), ("0.006", "1", "1%")],
)  # fmt: skip
def test_a_share_is_rounded_but_0_and_100_percent_are_exact(
    part: str, whole: str, text: str
) -> None:
    assert format_share(Decimal(part), Decimal(whole)) == text
