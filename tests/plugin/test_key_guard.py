"""Keys in cassettes: those that VCR writes in a run, and those that are committed."""

from __future__ import annotations

import base64
import gzip
import os
from pathlib import Path
from time import thread_time

import pytest
from conftest import Project
from standin import StandIn

from pytest_llmcost.cli.main import main
from pytest_llmcost.credentials import keys_in_cassette, looks_like_key

KEY = "-".join(("sk", "ant", "api03", "A1b2C3d4" * 11))
"""Joined, so that no source holds what a scanner takes for a key."""
AWS_KEY = "AKIA" + "IOSFODNN7" + "ABCDEFG"
SUITE = """
    import os
    import anthropic
    import pytest
    import vcr

    def ask(**how):
        with anthropic.Anthropic(**how) as client:
            client.messages.create(model="claude-haiku-4-5", max_tokens=10,
                                   messages=[{"role": "user", "content": "hi"}])

    recorder = vcr.VCR(record_mode="once", **OPTIONS)

    @pytest.mark.parametrize("number", range(3))
    def test_plain(number):
        with recorder.use_cassette(f"cassettes/{number}.yaml"):
            ask(SECRET)
"""


def suite(secret: str = "api_key=os.environ['KEY']", options: str = "{}") -> str:
    return SUITE.replace("SECRET", secret).replace("OPTIONS", options)


@pytest.fixture
def online(project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("KEY", KEY)
    # VCR's own making of a folder fails in one of two workers that do it at once.
    (project.path / "cassettes").mkdir()
    return project.online(standin)


def test_a_cassette_that_is_written_anew_without_what_was_not_played_is_searched(
    online: Project,
) -> None:
    options = "{'drop_unused_requests': True}"
    online.write(
        test_app=suite(options=options).replace("range(3)", "range(1)") + "            ask()\n"
    )
    online.run("--llmcost-key-guard=off").assert_outcomes(passed=1)
    online.write(test_app=suite(options=options).replace("range(3)", "range(1)"))
    result = online.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED llmcost_key_guard - keys in 1 cassette"])


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_a_key_in_a_new_cassette_fails_the_run(
    online: Project, workers: tuple[str, ...], header: str
) -> None:
    own_header = "api_key='any', default_headers={'x-api-key': os.environ['KEY']}"
    online.write(
        test_app=suite(own_header if header == "x-api-key" else "api_key=os.environ['KEY']")
    )
    result = online.run(*workers, plugins=("xdist",) if workers else ())
    result.assert_outcomes(passed=3, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            f"cassettes/0.yaml: what looks like a key is in header `{header}`",
            f"cassettes/2.yaml: what looks like a key is in header `{header}`",
            "    import pytest",
            "",
            '    @pytest.fixture(scope="session")',
            "    def vcr_config():",
            '        return {"filter_headers": ["authorization", "x-api-key"]}',
            "Then record these files again. *",
            "*= short test summary info =*",
            "FAILED llmcost_key_guard - keys in 3 cassettes",
        ]
    )
    assert KEY not in result.stdout.str() + result.stderr.str()


def test_the_lines_that_are_shown_keep_the_key_out(online: Project) -> None:
    online.write(
        test_app="""
        import os
        import anthropic
        import pytest

        @pytest.fixture(scope="module")
        def vcr_config():
            return {"filter_headers": ["authorization", "x-api-key"]}

        @pytest.mark.vcr
        def test_asks():
            with anthropic.Anthropic(api_key=os.environ["KEY"]) as client:
                client.messages.create(model="claude-haiku-4-5", max_tokens=10,
                                       messages=[{"role": "user", "content": "hi"}])
        """
    )
    result = online.run("--record-mode=once", plugins=("recording",))
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
    assert list(online.path.rglob("test_asks.yaml"))


def test_pytest_recording_s_cassettes_are_searched_and_replays_are_not(online: Project) -> None:
    online.write(
        test_app="""
        import os
        import anthropic
        import pytest

        @pytest.mark.vcr
        def test_asks():
            with anthropic.Anthropic(api_key=os.environ["KEY"]) as client:
                client.messages.create(model="claude-haiku-4-5", max_tokens=10,
                                       messages=[{"role": "user", "content": "hi"}])
        """
    )
    result = online.run("--record-mode=once", plugins=("recording",))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["cassettes/test_app/test_asks.yaml: what looks like a key is in *"]
    )
    result = online.run(plugins=("recording",))
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*what looks like a key*")


@pytest.mark.parametrize(
    ("mode", "is_shown"), [("warn", True), ("off", False)], ids=["warn", "off"]
)
def test_the_guard_can_warn_or_be_off(online: Project, mode: str, is_shown: bool) -> None:
    online.write(test_app=suite())
    result = online.run(f"--llmcost-key-guard={mode}")
    assert result.ret == pytest.ExitCode.OK
    assert ("what looks like a key" in result.stdout.str()) is is_shown


def test_a_cassette_that_a_session_fixture_writes_last_is_searched_too(online: Project) -> None:
    online.write(
        test_app=suite()
        + """
    @pytest.fixture(scope="session")
    def last():
        yield
        with recorder.use_cassette("cassettes/last.yaml"):
            ask(api_key=os.environ["KEY"])

    def test_last(last):
        pass
    """
    )
    result = online.run("-k", "last")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["cassettes/last.yaml: what looks like a key is in *"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_cassette_that_a_child_process_writes_is_searched_too(
    online: Project, workers: tuple[str, ...], method: str
) -> None:
    """Also if it holds no call of Claude."""
    online.write(
        test_app=f"""
    import multiprocessing
    import os
    import urllib.request
    import vcr

    def record():
        asked = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/other")
        asked.add_header("x-api-key", os.environ["KEY"])
        with vcr.use_cassette("cassettes/child.yaml"):
            try:
                urllib.request.urlopen(asked)
            except OSError:
                pass

    def test_child():
        child = multiprocessing.get_context({method!r}).Process(target=record)
        child.start()
        child.join()
        assert child.exitcode == 0
    """
    )
    result = online.run_apart(
        "-W", "ignore::DeprecationWarning", *workers, plugins=("xdist",) if workers else ()
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["cassettes/child.yaml: what looks like a key is in *"])


@pytest.mark.parametrize(
    "value",
    [
        *("DUMMY", "REDACTED", "***", "Bearer REDACTED", "Bearer <filtered-0001>", "any", ""),
        "-".join(("sk", "ant", "test", "0123456789abcdef")),
        *("-".join(("sk", "ant", "api03", "x" * length)) for length in (40, 90)),
        "0" * 32,
        "key-for-the-stand-in",
        "AWS4-HMAC-SHA256 Credential=testing/20261125/us-east-1/bedrock/aws4_request, "
        f"SignedHeaders=host, Signature={'0f' * 32}",
    ],
)
def test_placeholders_are_no_keys(value: str) -> None:
    assert not looks_like_key(value)


@pytest.mark.parametrize(
    "value",
    [
        *(KEY, f"Bearer {KEY}", "Bearer 0123456789abcdef0123", "Basic dXNlcjpwYXNzd29yZDE="),
        f"AWS4-HMAC-SHA256 Credential={AWS_KEY}/20261125/us-east-1/bedrock/aws4_request, "
        f"SignedHeaders=host, Signature={'0f' * 32}",
        "IQoJb3JpZ2luX2VjE" + "mockA1+/" * 40,  # a word is in it by chance
    ],
)
def test_credentials_are_found(value: str) -> None:
    assert looks_like_key(value)


HEX = "0123456789abcdef" * 2
SCOPE = "20261125/us-east-1/bedrock/aws4_request"


def signed(key: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential={key}/{SCOPE}, SignedHeaders=host, Signature={'0f' * 32}"


def packed(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def cassette(
    headers: str = "", uri: str = "https://a.test", body: str = "''", answer: str = "''"
) -> str:
    return (
        "interactions:\n- request:\n    method: POST\n"
        f"    uri: {uri}\n    body: {body}\n    headers:\n      accept: ['*/*']\n{headers}"
        "  response:\n    headers: {}\n    status: {code: 200, message: OK}\n"
        f"    body:\n      string: {answer}\nversion: 1\n"
    )


COMMITTED = {
    "headers.yaml": (
        cassette(f"      X-Amz-Security-Token:\n      - {'Ab1' * 30}\n"),
        ["header `x-amz-security-token`"],
    ),
    "google.yaml": (
        cassette(f"      x-goog-api-key: ['{'AIza' + 'Sy0' * 12}']\n"),
        ["header `x-goog-api-key`"],
    ),
    "query.yaml": (
        cassette(uri=f"https://a.test/m?X-Amz-Credential={AWS_KEY}%2F20261125"),
        ["query `X-Amz-Credential`"],
    ),
    "body.yaml": (cassette(body=f"my key is {KEY}"), ["body"]),
    "damaged.yaml": (
        cassette(f"      x-api-key:\n      - {KEY}\n") + "\t: [",
        ["header `x-api-key`"],
    ),
    "recorded.json": (
        '{"interactions": [{"request": {"headers": {"Authorization": ["Bearer ' + KEY + '"]}}}]}',
        ["header `authorization`"],
    ),
    "gateway.yaml": (
        cassette(f"      Helicone-Auth:\n      - Bearer {HEX}\n      \"x-\\e[1m\": ['{KEY}']\n"),
        ["header `helicone-auth`", "header `x-??1m`"],
    ),
    "cookie.yaml": (
        cassette(f"      Cookie: ['lang=en; session={HEX}']\n"),
        ["header `cookie`"],
    ),
    "botocore.yaml": (
        cassette(f"      Authorization: [!!binary {packed(signed(AWS_KEY))}]\n"),
        ["header `authorization`"],
    ),
    "token.yaml": (cassette(uri=f"https://a.test/m?access_token={HEX}"), ["query `access_token`"]),
    "user.yaml": (cassette(uri=f"https://me:{HEX}@a.test/m"), ["address"]),
    "token_for_user.yaml": (cassette(uri=f"https://{HEX}@a.test/m"), ["address"]),
    "path.yaml": (cassette(uri=f"https://a.test/{KEY}/v1/messages"), ["address"]),
    "form.yaml": (
        cassette(
            body=f"grant_type=refresh_token&client_secret=d-{HEX}&refresh_token=1%2F%2F0{HEX}"
        ),
        ["field `client_secret`", "field `refresh_token`"],
    ),
    "fields.yaml": (cassette(body=f'\'{{"api_key": "{HEX}"}}\''), ["field `api_key`"]),
    "mcp.yaml": (
        cassette(body=f'\'{{"mcp_servers": [{{"authorization_token": "{HEX}"}}]}}\''),
        ["field `authorization_token`"],
    ),
    "other_header.yaml": (
        cassette(f"      x-upstream: [Bearer {HEX}]\n      www-authenticate: [Bearer a={HEX!r}]\n"),
        ["header `x-upstream`"],
    ),
    "header_in_body.yaml": (
        cassette(body=f'\'{{"mcp": {{"headers": {{"Authorization": "Bearer {HEX}"}}}}}}\''),
        ["field `Authorization`"],
    ),
    "presigned.yaml": (
        cassette(body=f'\'{{"url": "https://a.test/x.pdf?a=1&sig={HEX}"}}\''),
        ["field `sig`"],
    ),
    "github.yaml": (cassette(answer="github_pat_" + "11A" * 9), ["body of the response"]),
    "google_token.yaml": (
        cassette(answer=f'\'{{"token":"ya29.c.{HEX}"}}\''),
        ["body of the response"],
    ),
    "sts.yaml": (
        cassette(answer=f"<SecretAccessKey>{HEX}/x+</SecretAccessKey>"),
        ["field `SecretAccessKey` of the response"],
    ),
    "binary.yaml": (
        cassette(answer=f"!!binary {packed(KEY)}"),
        ["body of the response"],
    ),
    "gzip.yaml": (
        cassette(answer=f"!!binary {packed(gzip.compress(KEY.encode()))}"),
        ["body of the response"],
    ),
    "gzip_of_another_sum.yaml": (
        cassette(answer=f"!!binary {packed(gzip.compress(KEY.encode())[:-8] + bytes(8))}"),
        ["body of the response"],
    ),
    "damaged_gzip.yaml": (
        cassette(answer=f"!!binary {packed(gzip.compress(b'')[:10] + b'?? ' + KEY.encode())}"),
        ["body of the response"],
    ),
    "dummies.yaml": (
        cassette(
            f"      Authorization: [!!binary {packed(signed('testing'))}]\n"
            f"      Proxy-Authorization: ['{signed('AKIA' + 'IOSFODNN7' + 'EXAMPLE')}']\n"
            "      X-Amz-Security-Token: [!!binary dGVzdGluZw==]\n"
            f"      Cookie: ['__cf_bm={HEX}; AWSALB={HEX}; expires={HEX}']\n",
            uri=f"https://a.test?X-Amz-Credential=not-used%2F{SCOPE}&next_token={HEX}@a.test",
            body='"how? api_key=settings.oauth2_access_token or sk-learn-based-approach-2024"',
        ),
        [],
    ),
    "archive.har": (
        '{"log": {"entries": [{"request": {"url": "https://a.test", "headers": '
        '[{"name": "X-Api-Key", "value": "' + KEY + '"}, {"name": "a", "value": "b"}], '
        '"postData": {"params": [{"name": "client_secret", "value": "' + HEX + '"}]}}}]}}',
        ["field `client_secret`", "header `x-api-key`"],
    ),
    "sentry.yaml": (
        cassette(
            uri=f"https://{HEX}@o123.ingest.sentry.io/456",
            body=f'\'{{"dsn": "https://{HEX}@sentry.firm.com:9000/4"}}\'',
        ),
        [],
    ),
    "sentry_with_a_secret.yaml": (
        cassette(uri=f"https://{HEX}:{HEX}@sentry.io/4"),
        ["address"],
    ),
    "mails.yaml": (
        cassette(
            body='\'{"url":"https://a.test","mail":"customer-service-2024@firm.com"}\'',
            answer="'https://a.test,customer-service-2024@firm.com'",
        ),
        [],
    ),
    "clean.yaml": (cassette("      x-api-key:\n      - REDACTED\n"), []),
    "list.json": ("[1, 2]", []),
}


@pytest.mark.parametrize("name", COMMITTED)
def test_what_is_committed_is_searched_by_header_query_and_body(tmp_path: Path, name: str) -> None:
    text, where = COMMITTED[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert keys_in_cassette(tmp_path / name) == where


def test_the_command_names_files_and_never_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (text, _) in COMMITTED.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["cassettes", "--check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("what looks like a key is in") == len(
        [1 for _, found in COMMITTED.values() if found]
    )
    assert '"filter_query_parameters": ["X-Amz-Credential", "access_token"]' in out
    assert "Keep what is in an address, a body or a response out with VCR's hooks" in out
    assert KEY not in out
    assert AWS_KEY not in out
    assert HEX not in out
    assert main(["cassettes", "--check", str(tmp_path / "clean.yaml")]) == 0
    assert capsys.readouterr().out == "no keys in 1 file\n"
    assert main(["cassettes", "--check", str(tmp_path / "none")]) == 2
    assert "none: No such file or directory" in capsys.readouterr().err


def test_a_cassette_of_any_name_is_searched_and_a_folder_without_one_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_a").write_text(COMMITTED["body.yaml"][0])
    (tmp_path / "folder.yaml").mkdir()
    assert main(["cassettes", "--check", str(tmp_path)]) == 1
    assert "test_a: what looks like a key is in body\n" in capsys.readouterr().out
    (tmp_path / "test_a").write_text("# no cassette\n")
    assert main(["cassettes", "--check", str(tmp_path)]) == 2
    assert "holds no cassette" in capsys.readouterr().err


def test_a_cassette_is_searched_to_its_end_packed_or_not(tmp_path: Path) -> None:
    whole = COMMITTED["body.yaml"][0].encode()
    packed = gzip.compress(whole)
    (tmp_path / "packed.yaml.gz").write_bytes(gzip.compress(b"# of yesterday\n") + packed)
    (tmp_path / "damaged.yaml.gz").write_bytes(packed[:-8] + b"no sum")
    long = b"interactions:\n- request: {body: '%b'}\n" % (b"a b " * 13_000_000)
    (tmp_path / "long.yaml").write_bytes(long + whole.partition(b"\n")[2])
    assert keys_in_cassette(tmp_path / "packed.yaml.gz") == ["body"]
    assert keys_in_cassette(tmp_path / "damaged.yaml.gz") == ["body"]
    assert keys_in_cassette(tmp_path / "long.yaml") == ["body or another header"]


def test_a_long_word_in_a_damaged_cassette_is_searched_soon(tmp_path: Path) -> None:
    path = tmp_path / "damaged.yaml"
    path.write_text(f"{COMMITTED['damaged.yaml'][0]}\n{'AA-' * 20_000}")
    started = thread_time()
    assert keys_in_cassette(path) == COMMITTED["damaged.yaml"][1]
    assert thread_time() - started < 3


@pytest.mark.parametrize("closed", ["cassettes/test_a", "cassettes/b.yaml", "cassettes/more"])
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users and permissions of POSIX")
def test_what_cannot_be_read_is_an_error_and_no_all_clear(
    closed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a.yaml", "test_a", "b.yaml", "more/c.yaml"):
        (tmp_path / "cassettes" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "cassettes" / name).write_text(COMMITTED["clean.yaml"][0])
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    assert main(["cassettes", "--check", "cassettes"]) == 0
    assert capsys.readouterr().out == "no keys in 4 files\n"
    (tmp_path / closed).chmod(0)
    if is_root := os.geteuid() == 0:  # who may read everything
        os.seteuid(65534)
    try:
        assert main(["cassettes", "--check", "cassettes"]) == 2
    finally:
        if is_root:
            os.seteuid(0)
        (tmp_path / closed).chmod(0o755)
    message = f"llmcost: {closed}: Permission denied\n"
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("name", ["form.yaml", "sts.yaml", "body.yaml", "mcp.yaml"])
def test_of_what_no_option_filters_no_option_is_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(COMMITTED[name][0])
    assert main(["cassettes", "--check", str(tmp_path / name)]) == 1
    shown = capsys.readouterr().out
    assert "vcr_config" not in shown
    assert "VCR's hooks (before_record_request" in shown


@pytest.mark.parametrize(
    ("key", "is_found"),
    [("testing", False), ("AKIA" + "IOSFODNN7" + "EXAMPLE", False), (AWS_KEY, True)],
)
def test_of_boto3_s_signatures_only_those_of_a_real_key_are_found(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch, key: str, is_found: bool
) -> None:
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    project.online(standin).write(
        test_app="""
        import os
        import boto3
        import vcr

        def test_converse():
            session = boto3.Session()  # the default one keeps the key of an earlier test
            client = session.client("bedrock-runtime", region_name="us-east-1",
                                    endpoint_url=os.environ["ANTHROPIC_BASE_URL"])
            with vcr.use_cassette("converse.yaml"):
                client.converse(modelId="us.anthropic.claude-sonnet-4-5-20250929-v1:0", messages=[
                    {"role": "user", "content": [{"text": "hi"}]}])
        """
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=int(is_found))
    assert "!!binary" in (project.path / "converse.yaml").read_text()
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if is_found else pytest.ExitCode.OK)
    assert ("what looks like a key is in header `authorization`" in str(result.stdout)) is is_found
