"""Public recordings of real traffic beside the repository, where they are there."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

RESPONSES_PATH = (
    Path(__file__).resolve().parents[1].parent / "shared" / "traffic" / "responses.jsonl.gz"
)
needs_traffic = pytest.mark.skipif(
    not RESPONSES_PATH.is_file(), reason="the recorded traffic is not beside this repository"
)


@lru_cache(maxsize=1)
def recorded_lines() -> tuple[dict[str, Any], ...]:
    with gzip.open(RESPONSES_PATH, "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


def body_of(line: dict[str, Any]) -> bytes:
    if line["body"] is not None:
        return str(line["body"]).encode()
    return b64decode(line["body_base64"])


def billed_lines() -> list[dict[str, Any]]:
    """The lines whose answer has a usage, batch results left out."""
    return [line for line in recorded_lines() if line["usage"] and line["status"] == 200]
