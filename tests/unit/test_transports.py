"""Getting in and out of the process: wrapping, nesting, import hooks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import httpx2
import pytest
from capture_kit import (
    JSON_BODY,
    LIBRARIES,
    URL,
    Purse,
    capturing,
    client_of,
    respond,
)

from pytest_llmcost.capture.transports import follow, unfollow

WHOLE = respond(httpx2, JSON_BODY, kind="application/json")
ASK = {"model": "m", "messages": [], "max_tokens": 1}


def ask(library: Any = httpx2) -> None:
    client_of(library, respond(library, JSON_BODY, kind="application/json")).post(URL, json=ASK)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
def test_on_exit_the_classes_are_as_they_were(library: Any) -> None:
    before = (library.Client.send, library.AsyncClient.send, [*sys.meta_path])
    with capturing():
        assert library.Client.send is not before[0]
        assert library.Client.send.__name__ == "send"
    assert (library.Client.send, library.AsyncClient.send, [*sys.meta_path]) == before


def test_of_nested_captures_the_innermost_hears() -> None:
    with capturing("outer") as outer:
        ask()
        with capturing("inner") as inner:
            ask()
        ask()
    assert (outer.owners, inner.owners) == (
        ["outer", "outer"],
        ["inner"],
    )


def test_captures_may_end_in_any_order() -> None:
    original = httpx2.Client.send
    first, second = Purse("first"), Purse("second")
    outer, inner = follow(first.capture.begin), follow(second.capture.begin)
    unfollow(outer)
    ask()
    unfollow(inner)
    unfollow(outer)
    assert httpx2.Client.send is original
    assert (len(first.calls), len(second.calls)) == (0, 1)


def test_a_wrapper_that_was_wrapped_stays_and_is_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    client_class: Any = httpx2.Client
    original = client_class.send
    theirs: list[object] = []
    purse = Purse()
    follower = follow(purse.capture.begin)
    ours = client_class.send

    def send(client: httpx2.Client, request: httpx2.Request, **options: Any) -> httpx2.Response:
        theirs.append(request)
        return ours(client, request, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(client_class, "send", send)
    unfollow(follower)
    assert client_class.send is send
    ask()
    assert (len(theirs), purse.calls) == (1, [])
    with capturing() as again:  # two wrappers of ours in one chain, and still one call
        ask()
    assert (len(theirs), len(again.calls), purse.calls) == (2, 1, [])
    assert client_class.send is send
    monkeypatch.undo()
    client_class.send = original


def test_subclasses_and_their_own_send_are_seen_once() -> None:
    class Logging(httpx2.Client):
        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            return super().send(request, **options)

    with capturing() as purse:
        Logging(transport=httpx2.MockTransport(WHOLE)).post(URL, json=ASK)
    assert len(purse.calls) == 1


def test_the_request_may_be_a_keyword() -> None:
    client = client_of(httpx2, WHOLE)
    with capturing() as purse:
        client.send(request=client.build_request("POST", URL, json=ASK))
    assert len(purse.calls) == 1


def test_a_traceback_of_the_code_under_test_does_not_show_us() -> None:
    def fail(request: Any) -> Any:
        raise httpx2.ConnectError("no")

    with capturing(), pytest.raises(httpx2.ConnectError) as caught:
        client_of(httpx2, fail).post(URL, json=ASK)
    names = [
        entry.path.name
        for entry in caught.traceback.filter(lambda entry: not entry.ishidden(caught))
        if hasattr(entry.path, "name")
    ]
    assert not {"httpx.py", "recorders.py"} & {*names}


def run_python(code: str) -> str:
    script = "import sys\nsys.path.insert(0, 'tests')\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PURSE = """
from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.transports import follow, unfollow
class Purse:
    seen = []
purse = Purse()
capture = Capture(owner=lambda: None, report=purse.seen.append, clock=lambda: 0.0)
ASK = {"model": "m", "messages": [], "max_tokens": 1}
BODY = b'{"type": "message", "model": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}'
def ask(library):
    answer = library.MockTransport(lambda request: library.Response(200, content=BODY))
    library.Client(transport=answer).post("https://x.example/v1/messages", json=ASK)
"""


def test_libraries_imported_later_are_seen_and_none_is_imported_for_that() -> None:
    out = run_python(
        PURSE
        + """
follower = follow(capture.begin)
assert not {"httpx", "httpx2", "vcr", "anthropic", "wrapt"} & set(sys.modules)
import importlib.util
assert importlib.util.find_spec("httpx").origin.endswith("__init__.py")
assert "httpx" not in sys.modules
import httpx, httpx2
from importlib.machinery import SourceFileLoader
for library in (httpx, httpx2):
    assert type(library.__spec__.loader) is type(library.__loader__) is SourceFileLoader
    ask(library)
capture.drain()
print(len(purse.seen), capture.failures)
unfollow(follower)
ask(httpx)
capture.drain()
print(len(purse.seen))
"""
    )
    assert out.split("\n") == ["2 []", "2", ""]


def test_several_watchers_hear_of_one_import() -> None:
    out = run_python(
        """
from pytest_llmcost.capture.import_hook import ImportWatcher
heard = []
watchers = [
    ImportWatcher({"colorsys": lambda module, name=name: heard.append((name, module.__name__))})
    for name in ("first", "second", "third")
]
for watcher in watchers:
    watcher.install()
import colorsys
from importlib.machinery import SourceFileLoader
assert type(colorsys.__spec__.loader) is type(colorsys.__loader__) is SourceFileLoader
print(heard)
for watcher in watchers:
    watcher.remove()
    watcher.remove()
assert not any(isinstance(finder, ImportWatcher) for finder in sys.meta_path)
"""
    )
    assert out == "[('first', 'colorsys'), ('second', 'colorsys'), ('third', 'colorsys')]\n"


def test_two_names_of_one_library_are_wrapped_once() -> None:
    out = run_python(
        PURSE
        + """
follower = follow(capture.begin)
import httpx2
httpx2.alias_httpx()
import httpx
assert httpx is httpx2
ask(httpx)
capture.drain()
print(len(purse.seen))
unfollow(follower)
assert httpx2.Client.send.__module__ == "httpx2._client"
"""
    )
    assert out == "1\n"


def test_an_alias_from_before_is_wrapped_once_too() -> None:
    out = run_python(
        PURSE
        + """
import httpx2
httpx2.alias_httpx()
import httpx
follower = follow(capture.begin)
ask(httpx)
ask(httpx2)
capture.drain()
print(len(purse.seen))
"""
    )
    assert out == "2\n"


def test_a_finder_that_searches_through_all_finders_finds_ours_too() -> None:
    """As those of libraries do that watch imports."""
    out = run_python(
        PURSE
        + """
import importlib.util
class Watching:
    under_way = set()
    def find_spec(self, name, path=None, target=None):
        if name not in self.under_way:
            self.under_way.add(name)
            return importlib.util.find_spec(name)
follower = follow(capture.begin)
sys.meta_path.insert(0, Watching())
import httpx
sys.meta_path.append(sys.meta_path.pop(0))
import httpx2
ask(httpx)
ask(httpx2)
capture.drain()
print(len(purse.seen), capture.failures)
"""
    )
    assert out == "2 []\n"


def test_a_finder_that_asks_those_behind_it_is_asked_once() -> None:
    """As one does that stands before ours and has no guard of its own."""
    out = run_python(
        PURSE
        + """
class Delegating:
    def find_spec(self, name, path=None, target=None):
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (each.find_spec(name, path, target) for each in behind)
        return next((each for each in found if each), None)
follower = follow(capture.begin)
sys.meta_path.insert(0, Delegating())
import httpx2
ask(httpx2)
capture.drain()
print(len(purse.seen), capture.failures)
"""
    )
    assert out == "1 []\n"


def test_a_stub_of_that_name_and_a_missing_module_are_left_alone() -> None:
    out = run_python(
        PURSE
        + """
import types
sys.modules["httpx"] = types.ModuleType("httpx")
sys.modules["httpx2"] = None
follower = follow(capture.begin)
try:
    import httpx2
except ImportError:
    print("missing")
unfollow(follower)
"""
    )
    assert out == "missing\n"


def test_a_module_that_fails_to_import_fails_as_it_would() -> None:
    out = run_python(
        PURSE
        + """
import pathlib, tempfile
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "httpx.py").write_text("raise ValueError('broken')")
    sys.path.insert(0, folder)
    follower = follow(capture.begin)
    try:
        import httpx
    except ValueError as error:
        print(error)
"""
    )
    assert out == "broken\n"


def test_cassetter_is_heard_wherever_it_keeps_its_cassettes() -> None:
    out = run_python(
        PURSE
        + """
import pathlib, tempfile, httpx
follower = follow(capture.begin)
with tempfile.TemporaryDirectory() as folder:
    package = pathlib.Path(folder, "cassetter")
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "cassette.py").write_text(
        "class Cassette:\\n    def match(self, *request): return 0, 'response'\\n"
    )
    sys.path.insert(0, folder)
    from cassetter.cassette import Cassette
    def replay(request):
        assert Cassette().match("POST", str(request.url), {}, b"") == (0, "response")
        return httpx.Response(200, content=BODY)
    assert Cassette().match() == (0, "response")
    client = httpx.Client(transport=httpx.MockTransport(replay))
    client.post("https://x.example/v1/messages", json=ASK)
capture.drain()
(request,) = purse.seen
print(request.replay.obstacle, request.live)
"""
    )
    assert out == "cassetter replayed it False\n"


@pytest.mark.parametrize(
    "imports",
    ["import vcr", "import httpx2, vcr", "import vcr, anthropic", "import vcr.patch, httpx"],
)
def test_a_replay_is_seen_whichever_was_imported_first(imports: str) -> None:
    """VCR imports the HTTP libraries while `vcr.cassette` is half imported, and these call us."""
    out = run_python(
        PURSE
        + """
import pathlib, tempfile
follower = follow(capture.begin)
CASSETTE = '''
version: 1
interactions:
- request: {method: POST, uri: "https://api.anthropic.com/v1/messages", headers: {},
    body: '{"model": "m", "messages": [], "max_tokens": 1}'}
  response:
    status: {code: 200, message: OK}
    headers: {content-type: [application/json]}
    body: {string: '{"type": "message", "model": "m", "content": [],
      "usage": {"input_tokens": 1, "output_tokens": 1}}'}
'''
"""
        + imports
        + """
import vcr
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "one.yaml")
    path.write_text(CASSETTE)
    with vcr.use_cassette(str(path), record_mode="none"):
        import httpx
        httpx.post("https://api.anthropic.com/v1/messages", json=ASK)
capture.drain()
(request,) = purse.seen
print(request.live, request.replay.body == ASK, capture.failures)
"""
    )
    assert out == "False True []\n"
