"""What the package index shows of README.md: links lead to the repository, for it has no docs/.

hatchling calls it when it builds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Description(MetadataHookInterface):
    """Makes `readme`, which is dynamic in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Write relative links and pictures in full."""
        source = metadata["urls"]["Source"]
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = re.sub(r"\]\((?!https:|#)", f"]({source}/blob/main/", text)
        text = re.sub(r'(src|srcset)="(?!https:)', rf'\1="{source}/raw/main/', text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
