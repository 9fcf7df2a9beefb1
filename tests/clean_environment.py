"""The environment of a run that a test starts: nothing that this machine or its CI decides."""

from __future__ import annotations

import os
from collections.abc import Mapping

# No test may reach the real API or write to a real job summary; in a CI pytest does not shorten its
# summary; a variable decides how wide and how coloured output is, and whether modules are compiled.
_PREFIXES = ("ANTHROPIC_", "AWS_", "PYTEST_", "GITHUB_", "GITLAB_", "CI_")
_NAMES = {"CI", "BUILD_NUMBER", "PYTHONDONTWRITEBYTECODE"}
_NAMES |= {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"}


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_PREFIXES) and name not in _NAMES
    }
