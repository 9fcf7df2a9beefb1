"""Write everything in the documentation that is made from the code or printed by it.

    python tests/tools/update_docs.py              all pages
    python tests/tools/update_docs.py start.md     one page of docs/, or README.md

Runs the pages' examples against the stand-in API, so it needs neither a key nor the network.
Look at the difference before you commit it: what changed there is what users will see.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from doc_pages import PAGES, Walk, blocks_of, name_of, rewritten
from standin import StandIn


def main() -> None:
    """Rewrite the pages named on the command line, or all of them."""
    wanted = sys.argv[1:]
    if unknown := set(wanted) - set(map(name_of, PAGES)):
        sys.exit(f"no page of this name: {', '.join(sorted(unknown))}; write it as how-to/tags.md")
    for page in sorted(PAGES, key=copies):  # those last that show what another page shows
        if wanted and name_of(page) not in wanted:
            continue
        with tempfile.TemporaryDirectory() as folder, StandIn() as api:
            text = rewritten(page, Walk(Path(folder), api.url))
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8", newline="\n")
            print(name_of(page))  # noqa: T201 - the pages that changed


def copies(page: Path) -> bool:
    """Whether a page shows the output of another one."""
    return any(block.kind == "shown" for block in blocks_of(page))


if __name__ == "__main__":
    main()
