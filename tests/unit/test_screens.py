"""What the commands show on a narrow and on a wide terminal, byte by byte."""

from __future__ import annotations

import pytest
from doc_pages import DOCS
from golden_files import assert_golden

from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.ledger import read_ledger
from pytest_llmcost.prices.rate_card import shipped_card

_PRICE = "price examples/recorded --on=2026-11-22 --prices=examples/recorded/discount.toml"
COMMANDS = {
    "price": f"{_PRICE} --by=call",
    "price-files": f"{_PRICE} --by=file",
    "price-models": f"{_PRICE} --by=model",
    "history": "history examples/trend/history.jsonl",
    "render": "render examples/trend/ledger.json",
    "compare": "compare examples/bill/ledger.json examples/trend/ledger.json",
}
WRITTEN_WITH = read_ledger(DOCS / "examples" / "trend" / "ledger.json").rate_card


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_looks_like_this(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for key in ("version", "sha256"):  # as when that was written, whatever rows came since
        monkeypatch.setattr(shipped_card(), key, getattr(WRITTEN_WITH, key))
    monkeypatch.chdir(DOCS)
    main(COMMANDS[name].split())
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert_golden(f"command-{name}-{width}.txt", text)
