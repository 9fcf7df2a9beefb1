"""The counter of a long recording."""

from __future__ import annotations

import pytest

from pytest_llmcost.counting.client import Progress
from pytest_llmcost.plugin.counts import render_progress


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(0, 10, 0, 0.0), "llmcost: counted 0/10 [  0%]"),
        (Progress(5, 10, 0, 1.0), "llmcost: counted 5/10, 5/s, 1 s left [ 50%]"),
        (Progress(1, 2_000, 0, 1.0), "llmcost: counted 1/2,000, 1/s, 33:19 min left [  0%]"),
        (
            Progress(1_500, 2_000, 3, 50.0),
            "llmcost: counted 1,500/2,000 (3 failed), 30/s, 17 s left [ 75%]",
        ),
        (Progress(10, 10, 0, 2.0), "llmcost: counted 10/10, 5/s [100%]"),
    ],
)
def test_it_says_how_far_how_fast_and_how_long(progress: Progress, text: str) -> None:
    assert render_progress(progress) == text
