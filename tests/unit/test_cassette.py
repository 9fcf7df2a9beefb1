"""Count cassettes as files: bytes, damage, merging, locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import msgspec
import pytest

from pytest_llmcost import files
from pytest_llmcost.counting import cassette as cassette_module
from pytest_llmcost.counting.cassette import CountCassette, Entry, read_entries, write_entries
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.errors import CountCassetteError


def entry(name: str = "aa", tokens: int = 7, *askers: str, **changes: Any) -> Entry:
    made = Entry(
        fingerprint=f"2:{name}",
        model="claude-opus-4-7",
        asked_by=askers or ("test_one",),
        parts={"model": "m", "system": name},
        input_tokens=tokens,
    )
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "test_one.llmcost.yaml"


def test_what_is_written_is_read(path: Path) -> None:
    entries = [entry("bb", left_out=("tools.web_search",)), entry("aa", 1, "b", "c")]
    write_entries(path, entries)
    assert read_entries(path) == {one.fingerprint: one for one in entries}


def test_the_file_is_pinned(path: Path) -> None:
    write_entries(path, [entry(left_out=("mcp_servers",))])
    assert path.read_bytes().decode() == textwrap.dedent("""\
        interactions:
        - request:
            body: |-
              {
               "fingerprint": "2:aa",
               "model": "claude-opus-4-7",
               "asked_by": [
                "test_one"
               ],
               "parts": {
                "model": "m",
                "system": "aa"
               },
               "left_out": [
                "mcp_servers"
               ]
              }
            headers: {}
            method: POST
            uri: https://api.anthropic.com/v1/messages/count_tokens
          response:
            body:
              string: '{"input_tokens": 7}'
            headers:
              content-type:
              - application/json
            status:
              code: 200
              message: OK
        version: 1
        """)


def test_a_file_as_it_was_written_is_read_without_a_yaml_parser(path: Path) -> None:
    entries = [
        entry("aa", left_out=("tools.x",)),
        entry("bb", 0, refused="messages.0.content: [...]"),
    ]
    write_entries(path, entries)
    script = f"""
        import sys
        from pathlib import Path
        from pytest_llmcost.counting.cassette import read_entries
        read_entries(Path({str(path)!r}))
        print("yaml" in sys.modules)
    """

    def loads_yaml() -> str:
        child = [sys.executable, "-c", textwrap.dedent(script)]
        return subprocess.run(child, capture_output=True, encoding="utf-8", check=True).stdout

    assert loads_yaml() == "False\n"
    assert read_entries(path) == {one.fingerprint: one for one in entries}
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # as Git does on Windows
    assert loads_yaml() == "False\n"
    assert read_entries(path) == {one.fingerprint: one for one in entries}
    path.write_bytes(path.read_bytes() + b"# formatted\n")
    assert read_entries(path) == {one.fingerprint: one for one in entries}
    assert loads_yaml() == "True\n"


def test_the_order_of_recording_does_not_show(path: Path, tmp_path: Path) -> None:
    entries = [entry(name) for name in "cab"]
    write_entries(path, entries)
    write_entries(tmp_path / "other.yaml", reversed(entries))
    assert path.read_bytes() == (tmp_path / "other.yaml").read_bytes()


def test_vcr_itself_can_load_it(path: Path) -> None:
    vcr_cassette = pytest.importorskip("vcr.cassette")
    write_entries(path, [entry()])
    loaded = vcr_cassette.Cassette.load(path=str(path))
    (request,), (response,) = loaded.requests, loaded.responses
    assert (request.method, request.path) == ("POST", "/v1/messages/count_tokens")
    assert response["body"]["string"] == b'{"input_tokens": 7}'


def test_no_file_and_an_empty_file_hold_nothing(path: Path) -> None:
    assert not CountCassette(path).entries
    path.parent.mkdir()
    path.write_text("\n")
    assert not CountCassette(path).entries


GOOD = """\
interactions:
- request:
    body: '{"fingerprint": "2:aa", "model": "m", "asked_by": [], "parts": {}}'
    method: POST
    uri: https://api.anthropic.com/v1/messages/count_tokens
  response:
    body: {string: '{"input_tokens": 7}'}
    status: {code: 200}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interactions: [", r"test_one.llmcost.yaml, line \d is not YAML .*delete it"),
        ("<<<<<<< ours\ninteractions: []\n", "line 2 is not YAML.*unresolved merge conflicts"),
        ("- request: {}", "is not a count cassette; restore it"),
        ("interactions: 3", "is not a count cassette"),
        ("!!python/object/apply:os.getcwd []", "is not a count cassette"),
        (GOOD.replace("{code: 200}", "200"), "interaction 1: .*; restore it"),
        (GOOD.replace("    body: ", "    text: "), "interaction 1: it is no recorded count"),
        (
            "interactions: [{request: {body: null, method: GET}, response: {}}]",  # as VCR's own
            "is not a count cassette, or damaged: interaction 1: it is no recorded count; restore",
        ),
        (
            GOOD.replace('"fingerprint": "2:aa", ', ""),
            "is not a count cassette, or damaged: interaction 1: .*`fingerprint`; restore it",
        ),
        (GOOD.replace('"model": "m", ', ""), "interaction 1: .*missing required field `model`"),
        (GOOD.replace("}}'", "}'"), "interaction 1: Input data was truncated"),
        (GOOD.replace(": 7", ': "7"'), "interaction 1: Expected `int`, got `str`"),
        (GOOD.replace(": 7", ": -7"), "Expected `int` >= 1 - at `[$].input_tokens`"),
        (GOOD.replace(": 7", ": 0"), "Expected `int` >= 1 - at `[$].input_tokens`"),
        (GOOD.replace(": 7", ": true"), "interaction 1: Expected `int`, got `bool`"),
        (GOOD.replace(": 7", ": 1000000001"), "Expected `int` <= 1000000000"),
        (GOOD.replace(": 7", f": {10**30}"), "interaction 1: "),
        (GOOD.replace("- request", "- 3\n- request"), "interaction 1: "),
        (GOOD + GOOD.partition("\n")[2].replace(": 7", ": 8"), "twice, with 7 and 8 tokens"),
        # A merge that kept the lines of both sides; which of them belong together is unknown.
        (
            GOOD.replace('"model"', '"fingerprint": "2:bb", "model"'),
            "interaction 1: it has 2 fingerprints; restore it",
        ),
        (
            GOOD.replace(
                "{string: '{\"input_tokens\": 7}'}",
                "\n      string: '{\"input_tokens\": 7}'\n      string: '{\"input_tokens\": 8}'",
            ),
            "line 9: one payload has two counts; restore it",
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_named_with_the_place_and_left_alone(
    path: Path, text: str, message: str
) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(CountCassetteError, match=message):
        CountCassette(path)
    assert path.read_text() == text


def test_a_conflict_between_two_counts_as_they_were_written_is_named(path: Path) -> None:
    write_entries(path, [entry("aa"), entry("bb")])
    first, second = path.read_text().rsplit("- request", 1)
    path.write_text(f"{first}=======\n- request{second}")
    with pytest.raises(CountCassetteError, match="is not YAML"):
        CountCassette(path)


def test_a_file_that_is_not_text_is_an_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CountCassetteError, match=r"is not UTF-8 .*; restore it, or delete it"):
        CountCassette(path)


def test_a_folder_in_its_place_is_an_error_that_names_it_once(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(CountCassetteError, match=r"cannot be read: Is a directory$"):
        CountCassette(path)


def test_the_same_count_twice_is_what_a_merge_leaves(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(GOOD + GOOD.partition("\n")[2])
    assert CountCassette(path).entries["2:aa"].input_tokens == 7


def test_a_file_damaged_meanwhile_is_not_overwritten(path: Path) -> None:
    write_entries(path, [entry()])
    cassette = CountCassette(path)
    path.write_text("interactions: [")
    cassette.put(entry("bb"))
    with pytest.raises(CountCassetteError, match="not YAML"):
        cassette.save()
    assert path.read_text() == "interactions: ["


def test_saving_without_news_touches_nothing(path: Path) -> None:
    cassette = CountCassette(path)
    cassette.save()
    assert not path.exists()
    write_entries(path, [entry()])
    os.utime(path, (1, 1))
    again = CountCassette(path)
    again.put(entry())
    again.save()
    assert path.stat().st_mtime == 1
    path.write_text("interactions: [")
    again.save()  # does not even read it


def test_saving_takes_nothing_of_what_a_test_puts_in_place_of_random_bytes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", lambda _: pytest.fail("they are the test's own"))
    files.write_atomic(path, [b"new"])
    assert path.read_bytes() == b"new"


def test_two_cassettes_on_one_file_merge(path: Path) -> None:
    one, two = CountCassette(path), CountCassette(path)
    one.put(entry("aa", 7, "test_one"))
    two.put(entry("aa", 7, "test_two"))
    two.put(entry("bb", 8, "test_two"))
    one.save()
    two.save()
    entries = CountCassette(path).entries
    assert entries["2:aa"].asked_by == ("test_one", "test_two")
    assert sorted(entries) == ["2:aa", "2:bb"]


def test_pruning_takes_off_the_askers_own_entries_alone(path: Path) -> None:
    write_entries(path, [entry("aa"), entry("bb"), entry("cc", 1, "test_one", "test_two")])
    cassette = CountCassette(path)
    cassette.prune("test_one", keep={"2:aa"})
    assert sorted(cassette.entries) == ["2:aa", "2:cc"]
    cassette.save()
    entries = CountCassette(path).entries
    assert sorted(entries) == ["2:aa", "2:cc"]
    assert entries["2:cc"].asked_by == ("test_two",)


def test_pruning_everything_removes_the_file(path: Path) -> None:
    write_entries(path, [entry()])
    cassette = CountCassette(path)
    cassette.prune("test_one", keep=())
    cassette.save()
    assert not path.exists()


def test_pruning_leaves_a_count_alone_that_names_no_asker(path: Path) -> None:
    write_entries(path, [entry("aa"), entry("bb", asked_by=())])
    cassette = CountCassette(path)
    cassette.prune("test_one", keep=())
    cassette.save()
    assert [*CountCassette(path).entries] == ["2:bb"]


OLD, NEW = entry("aa"), read_payload({"model": "claude-opus-4-7", "messages": []})


@pytest.mark.parametrize(
    ("entries", "before"),
    [
        ([OLD], OLD),
        ([OLD, entry("bb", 1, "test_two")], OLD),
        ([OLD, entry("bb", 0, refused="prompt is too long")], OLD),
        ([OLD, entry("bb", model="claude-haiku-4-5")], OLD),
        ([OLD, entry("bb", fingerprint="1:bb")], OLD),
        ([OLD, entry("bb")], None),
        ([entry(fingerprint=NEW.fingerprint)], None),
        ([entry(refused="prompt is too long")], None),
        ([entry(model="claude-haiku-4-5")], None),
        ([entry(fingerprint="1:aa")], None),
        ([], None),
    ],
)
def test_the_count_before_a_change_is_the_only_one_of_asker_model_and_recipe_with_tokens(
    path: Path, entries: list[Entry], before: Entry | None
) -> None:
    write_entries(path, entries)
    assert CountCassette(path).entry_before(NEW, "test_one") == before


def test_a_nearest_payload_is_of_todays_recipe(path: Path) -> None:
    write_entries(path, [entry("aa", fingerprint="1:aa"), entry("bb")])
    parts = {"model": "m", "system": "aa"}
    assert CountCassette(path).nearest(parts, "test_one") == entry("bb")


def test_the_nearest_payload_is_the_askers_own_most_alike(path: Path) -> None:
    parts = {"model": "m", "system": "x", "messages.0": "y"}
    write_entries(
        path,
        [
            entry("other", 1, "test_two", parts=parts),
            entry("far", 1, parts={"model": "n"}),
            entry("near", 1, parts={**parts, "system": "z"}),
        ],
    )
    cassette = CountCassette(path)
    assert cassette.nearest(parts, "test_one") == cassette.entries.get("2:near")
    assert cassette.nearest(parts, "test_two") == cassette.entries.get("2:other")
    assert CountCassette(path.with_name("none")).nearest(parts, "x") is None


def test_many_processes_on_one_file_lose_nothing(path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from pytest_llmcost.counting.cassette import CountCassette, Entry
        for number in range(1, 6):
            cassette = CountCassette(Path(sys.argv[1]))
            name = f"{sys.argv[2]}{number}"
            cassette.put(Entry(fingerprint=name, model="m", asked_by=(name,), parts={},
                               input_tokens=number))
            cassette.save()
    """)
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "abc"]
    assert [process.wait(300) for process in running] == [0, 0, 0]
    assert len(CountCassette(path).entries) == 15
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_threads_on_one_cassette_lose_nothing(path: Path) -> None:
    cassette = CountCassette(path)

    def record(number: int) -> None:
        cassette.put(entry(str(number), number + 1))
        cassette.save_soon()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(40)))
    cassette.save()
    assert len(CountCassette(path).entries) == 40


def test_a_known_count_stays_in_sight_while_further_tests_ask_for_it(path: Path) -> None:
    # What is missed by another thread would be asked for once more.
    write_entries(path, [entry("aa"), entry("bb")])
    cassette, interval = CountCassette(path), sys.getswitchinterval()

    def ask() -> None:
        for at in range(1_000):
            cassette.put(entry("aa", 7, f"test_{at}"))

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            while not asking.done():
                assert "2:aa" in cassette.entries
            asking.result()
    finally:
        sys.setswitchinterval(interval)
    assert list(cassette.entries) == ["2:aa", "2:bb"]


def test_saving_soon_does_not_take_all_the_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[object] = []
    replace = os.replace

    def note(*paths: str) -> None:
        replaced.append(paths)
        replace(*paths)

    monkeypatch.setattr(os, "replace", note)
    cassette = CountCassette(path)
    for number in range(200):
        cassette.put(entry(str(number)))
        cassette.save_soon()
    cassette.save()
    assert 2 <= len(replaced) < 100
    assert len(CountCassette(path).entries) == 200


def test_saving_soon_waits_ten_times_as_long_as_saving_took(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    write = cassette_module.write_entries

    def take_a_second(*arguments: Any) -> None:
        clock[0] += 1
        write(*arguments)

    monkeypatch.setattr(cassette_module, "write_entries", take_a_second)
    monkeypatch.setattr(cassette_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    cassette, saved = CountCassette(path), list[int]()
    for clock[0] in (100.0, 110.9, 111.0):
        cassette.put(entry(str(clock[0])))
        cassette.save_soon()
        saved.append(len(read_entries(path)))
    assert saved == [1, 1, 3]


def test_a_folder_that_cannot_be_written_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    cassette = CountCassette(path)
    cassette.put(entry())
    with pytest.raises(CountCassetteError, match=r"cannot be written: Read-only .*writable$"):
        cassette.save()


def test_a_lock_that_is_not_given_is_an_error_and_not_a_hang(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    cassette = CountCassette(path)
    cassette.put(entry())
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with files.locked(path):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    with pytest.raises(CountCassetteError, match="locked by another process"):
        cassette.save()
    done.set()
    thread.join()
    cassette.save()
    assert path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the temporary folder is a user's own")
@pytest.mark.parametrize("is_link", [False, True])
def test_locks_are_not_written_to_a_folder_that_another_user_has_made(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    """Its links would be followed, and the files that they name emptied."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = os.getuid()
    folder = tmp_path / f"pytest-llmcost-{own + 1}"
    if is_link:
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    cassette = CountCassette(path)
    cassette.put(entry())
    with pytest.raises(CountCassetteError, match=r"cannot be locked: .* is not yours"):
        cassette.save()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOLCK, "No locks available"),
        PermissionError(errno.EACCES, "Permission denied"),
        NotImplementedError("no flock here"),
    ],
)
def test_a_lock_that_cannot_be_taken_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*args: object, **how: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    cassette = CountCassette(path)
    cassette.put(entry())
    with pytest.raises(CountCassetteError, match=r"cannot be locked: .*TMPDIR"):
        cassette.save()


def test_permissions_and_links_are_kept(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept.yaml"
    write_entries(target, [entry("aa")])
    target.chmod(0o640)
    path.parent.mkdir()
    path.symlink_to(target)
    write_entries(path, [entry("bb")])
    assert path.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(read_entries(target)) == ["2:bb"]
