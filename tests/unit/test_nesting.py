"""YAML that would end the process is refused; anything else is read as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pytest_llmcost.errors import CountCassetteError, RecordingError
from pytest_llmcost.metering.count_file import read_entries
from pytest_llmcost.metering.nesting import MOST_LEVELS, find_too_deep
from pytest_llmcost.metering.recording import read_recordings

FAR_TOO_DEEP = 100_000


def maps_in_lists(levels: int) -> str:
    """Two levels for two columns, as a list may stand in the column of its key."""
    return "\n".join(f"{'  ' * each}a:\n{'  ' * each}- b: 1" for each in range((levels - 1) // 2))


@pytest.mark.parametrize(
    "text",
    [
        "[" * FAR_TOO_DEEP,
        "x: 1\ny: " + '{"a": ' * FAR_TOO_DEEP,
        "- " * FAR_TOO_DEEP,
        "? " * FAR_TOO_DEEP,
        "\n".join(" " * each + "a:" for each in range(MOST_LEVELS + 10)),
        "- " * 450 + "\n" + " " * 900 + "[" * 600,
        "[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1),
    ],
    ids=["lists", "maps", "items", "keys", "indented", "mixed", "just"],
)
def test_absurd_nesting_is_an_error_and_not_the_end_of_the_process(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "counts.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CountCassetteError, match=r"line \d+: nested more than 1,000 levels deep"):
        read_entries(path)
    with pytest.raises(RecordingError, match=r"a.yaml, line \d+: nested more than 1,000 levels"):
        read_recordings(text.encode(), "a.yaml")


@pytest.mark.parametrize("levels", [3, 400, MOST_LEVELS])
def test_what_can_be_loaded_is_let_through(levels: int) -> None:
    for text in ("[" * levels + "]" * levels, maps_in_lists(levels), "- " * levels + "a"):
        assert find_too_deep(text) is None
        assert find_too_deep(text.encode()) is None
        assert yaml.load(text, Loader=yaml.CSafeLoader)


@pytest.mark.parametrize(
    "text", [f"a: '{'[' * 5_000}'", "a: |\n  " + "{[" * 5_000, "[[" * 400 + "'", "a: \t\x00[" * 400]
)
def test_brackets_in_a_text_and_damage_are_no_nesting(text: str) -> None:
    assert find_too_deep(text) is None
    assert find_too_deep(text.encode()) is None
