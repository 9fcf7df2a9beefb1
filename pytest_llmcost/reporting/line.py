"""Line: one line of the summary, with how pytest's terminal writer should paint it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """Text and its markup: `bold`, `red`, ..."""

    text: str
    markup: Mapping[str, bool] = field(default_factory=dict)
