"""The GitHub action: its real shell, pytest, llmcost, curl and jq, in an environment like GitHub's.

What GitHub does is done here: the cache, the artifact and the API, which is a server on localhost.
The steps, their conditions and their environment are read from the action itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from warm_python import warm_bin

FOLDER = Path(__file__).resolve().parents[1] / ".github" / "actions" / "llmcost"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text(encoding="utf-8"))
MARKER = "<!-- pytest-llmcost -->"

missing = [name for name in ("bash", "curl", "jq") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


class GitHub:
    """GitHub's API for one pull request, with the comments that it has."""

    def __init__(self) -> None:
        self.comments: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.head = "a" * 40
        """The last commit of the pull request."""
        self.tokens: set[str | None] = set()
        self.refused: tuple[str, ...] = ()
        """Methods that the token may not use."""
        self.person: str | None = None
        """Whose the token is, if it is not the job's."""

    def answer(self, method: str, url: str, body: Any) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        if method in self.refused:
            return 403, {"message": "Resource not accessible by integration"}
        if (method, path) == ("GET", "/user"):
            return (200, {"login": self.person}) if self.person else (403, {})
        if (method, path) == ("GET", "/repos/octo/shop/pulls/7"):
            return 200, {"head": {"sha": self.head}}
        if (method, path) == ("GET", "/repos/octo/shop/issues/7/comments"):
            page, size = int(query["page"][0]), int(query["per_page"][0])
            return 200, self.comments[(page - 1) * size : page * size]
        if (method, path) == ("POST", "/repos/octo/shop/issues/7/comments"):
            comment = a_comment(body["body"], "User" if self.person else "Bot", self.person)
            self.comments.append({**comment, "id": len(self.comments) + 1})
            return 201, {}
        if (method, path) == ("POST", "/repos/octo/shop/check-runs"):
            self.checks.append(body)
            return 201, {}
        found = re.fullmatch(r"/repos/octo/shop/issues/comments/(\d+)", path)
        if method == "PATCH" and found:
            self.comments[int(found[1]) - 1]["body"] = body["body"]
            return 200, {}
        return 404, {}


def a_comment(body: str, kind: str = "Bot", login: str | None = None) -> dict[str, Any]:
    return {"body": body, "user": {"type": kind, "login": login or "somebody"}}


@pytest.fixture
def github() -> GitHub:
    return GitHub()


@pytest.fixture
def api(github: GitHub) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            github.tokens.add(self.headers["Authorization"])
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            status, found = github.answer(self.command, self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        do_GET = do_POST = do_PATCH = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PULL_REQUEST = {
    "github.event_name": "pull_request",
    "github.ref_name": "7/merge",
    "github.sha": "c" * 40,
    "github.event.pull_request.number": "7",
    "github.event.pull_request.head.sha": "a" * 40,
}
PUSH = {"github.event_name": "push", "github.ref_name": "main", "github.sha": "b" * 40}


@dataclass
class Job:
    """A job that uses the action, in a repository whose cache outlives it."""

    path: Path
    api: str
    cache: dict[str, bytes] = field(default_factory=dict)
    artifact: dict[str, bytes] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    log: str = ""
    status: int = 0

    def run(self, event: Mapping[str, str], **inputs: str) -> Job:
        """Run the steps of the action as the runner does: until one fails."""
        known = {
            f"inputs.{name}": each.get("default", "") for name, each in ACTION["inputs"].items()
        }
        known |= {f"inputs.{name.replace('_', '-')}": value for name, value in inputs.items()}
        known["inputs.token"] = "the-token"
        known |= {"github.event.repository.default_branch": "main", **event}
        self.outputs, self.artifact, self.summary, self.log, self.status = {}, {}, "", "", 0
        baseline = self.path / "llmcost-baseline.json"
        baseline.unlink(missing_ok=True)
        for step in ACTION["runs"]["steps"]:
            if "if" in step and evaluate(step["if"], known) != "true":
                continue
            given = {name: fill(text, known) for name, text in step.get("with", {}).items()}
            if step.get("uses", "").startswith("actions/cache/restore@"):
                keys = [key for key in self.cache if key.startswith(given["restore-keys"])]
                if keys:
                    (self.path / given["path"]).write_bytes(self.cache[keys[-1]])
            elif step.get("uses", "").startswith("actions/cache/save@"):
                self.cache[given["key"]] = (self.path / given["path"]).read_bytes()
            elif step.get("uses", "").startswith("actions/upload-artifact@"):
                found = sorted((self.path / given["path"]).iterdir())
                self.artifact = {each.name: each.read_bytes() for each in found}
            else:
                self._shell(step, known)
            if self.status:
                break
        named = {name: each["value"] for name, each in ACTION["outputs"].items()}
        self.outputs = {name: fill(text, known) for name, text in named.items()}
        return self

    def _shell(self, step: Mapping[str, Any], known: dict[str, str]) -> None:
        outputs, summary = self.path / "output", self.path / "summary"
        event = self.path / "event.json"
        commit = known.get("github.event.pull_request.head.sha")
        event.write_text(json.dumps({"pull_request": {"head": {"sha": commit}}} if commit else {}))
        outputs.write_text("")
        summary.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=self.path / fill(step.get("working-directory", "."), known),
            env={
                "PATH": f"{warm_bin()}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(self.path),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTEST_ADDOPTS": "-p llmcost -p no:cacheprovider",
                "GITHUB_ACTIONS": "true",
                "GITHUB_ACTION_PATH": str(FOLDER),
                "GITHUB_API_URL": self.api,
                "GITHUB_REPOSITORY": "octo/shop",
                "GITHUB_RUN_ID": "4711",
                "GITHUB_SHA": known["github.sha"],
                "GITHUB_EVENT_PATH": str(event),
                "GITHUB_OUTPUT": str(outputs),
                "GITHUB_STEP_SUMMARY": str(summary),
                **{name: fill(text, known) for name, text in step.get("env", {}).items()},
            },
            text=True,
            capture_output=True,
        )
        self.status = done.returncode
        self.log += done.stdout + done.stderr
        self.summary += summary.read_text()
        for line in outputs.read_text().splitlines():
            name, _, value = line.partition("=")
            known[f"steps.{step.get('id')}.outputs.{name}"] = value


def fill(text: str, known: Mapping[str, str]) -> str:
    """Put values in the place of `${{ ... }}`."""
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda match: evaluate(match[1], known), text)


def evaluate(expression: str, known: Mapping[str, str]) -> str:
    """Evaluate an expression of GitHub's of the few kinds that the action has."""

    def value(text: str) -> str:
        return text.strip("'") if text.startswith("'") else known.get(text, "")

    def holds(text: str) -> bool:
        if among := re.fullmatch(r"contains\(fromJSON\('(.*)'\), (.*)\)", text):
            return value(among[2]) in json.loads(among[1])
        one, operator, two = text.split(" ")
        return (value(one) == value(two)) == (operator == "==")

    if "=" not in expression:
        return value(expression)
    alternatives = (each.split(" && ") for each in expression.split(" || "))
    return str(any(all(map(holds, each)) for each in alternatives)).lower()


APP = """
from pytest_llmcost import max_cost

def test_a(llmcost):
    llmcost.record({{"input_tokens": {tokens}, "output_tokens": 10}}, model="claude-opus-4-7")

@max_cost("$1")
def test_b(llmcost):
    llmcost.record({{"input_tokens": 1000, "output_tokens": 10}}, model="claude-opus-4-7")
    assert {holds}
"""


@pytest.fixture
def job(tmp_path: Path, api: str) -> Job:
    job = Job(tmp_path, api)
    write(job, 1000)
    return job


def write(job: Job, tokens: int, *, holds: bool = True) -> None:
    (job.path / "test_app.py").write_text(APP.format(tokens=tokens, holds=holds))


def test_the_first_pull_request_has_no_baseline_and_is_judged_by_its_budgets(
    job: Job, github: GitHub
) -> None:
    job.run(PULL_REQUEST)
    assert job.status == 0, job.log
    assert job.outputs == {
        "total-usd": "0.0105",
        "change-usd": "",
        "change-percent": "",
        "passed": "true",
        "exceeded": "0",
        "report-path": "./llmcost",
    }
    assert set(job.artifact) == {"cost.json", "cost.md", "cost.html"}
    assert "### ✅ The suite costs $0.0105 · within its budget" in job.summary
    assert github.comments == [], "there is nothing to say yet"
    assert not job.cache


def test_what_a_pull_request_adds_to_the_default_branch_is_a_check_and_one_comment(
    job: Job, github: GitHub
) -> None:
    job.run(PUSH)
    assert job.status == 0, job.log
    assert list(job.cache) == ["llmcost-baseline@" + "b" * 40]
    assert github.checks == []

    write(job, 3000)
    job.run(PULL_REQUEST)
    assert job.status == 0, job.log
    assert (job.outputs["change-usd"], job.outputs["change-percent"]) == ("0.01", "95.2")
    (check,) = github.checks
    title = "Merging adds $0.01 (+95 %) per run of the suite · within its budget"
    assert (check["name"], check["conclusion"], check["head_sha"]) == (
        "llmcost",
        "success",
        "a" * 40,
    )
    assert check["output"]["title"] == title
    (comment,) = github.comments
    assert comment["body"] == check["output"]["summary"] == job.artifact["cost.md"].decode()
    assert f"### ✅ {title}" in comment["body"]
    assert "1 grew · 1 unchanged — aaaaaaa against bbbbbbb\n" in comment["body"]
    assert github.tokens == {"Bearer the-token"}

    write(job, 1000)
    job.run(PULL_REQUEST)
    (comment,) = github.comments
    assert "Merging does not change the cost of the suite" in comment["body"]


def test_a_suite_is_never_compared_with_one_whose_key_begins_like_its_own(job: Job) -> None:
    job.run(PUSH)
    write(job, 900_000)
    job.run(PUSH, baseline_key="llmcost-baseline-agents")
    write(job, 3000)
    job.run(PULL_REQUEST, max_increase="10%")
    assert (job.status, job.outputs["change-usd"]) == (1, "0.01"), job.log
    job.run(PULL_REQUEST, baseline_key="llmcost-baseline@agents")
    assert job.status == 2
    assert "::error title=LLM cost::The baseline-key llmcost-baseline@agents has an @" in job.log


@pytest.mark.parametrize("name", ["pull_request_target", "merge_group", "workflow_run"])
def test_no_event_that_runs_a_change_is_taken_for_the_default_branch(job: Job, name: str) -> None:
    job.run(PUSH)
    before = {**job.cache}
    write(job, 3000)
    job.run({**PUSH, "github.event_name": name, "github.sha": "d" * 40}, max_increase="10%")
    assert (job.status, job.outputs["change-usd"]) == (1, "0.01"), job.log
    assert job.cache == before


@pytest.mark.parametrize("name", ["schedule", "workflow_dispatch"])
def test_a_run_of_the_default_branch_by_hand_or_by_the_clock_is_its_baseline(
    job: Job, name: str
) -> None:
    event = {**PUSH, "github.event_name": name}
    if name == "schedule":  # whose event may say nothing of the repository
        event["github.event.repository.default_branch"] = ""
    job.run(event)
    assert (job.status, list(job.cache)) == (0, ["llmcost-baseline@" + "b" * 40])


def test_a_run_without_a_new_baseline_leaves_its_commit_s_key_to_a_run_that_has_one(
    job: Job,
) -> None:
    job.run(PUSH)
    write(job, 3000)
    with (job.path / "test_app.py").open("a") as app:
        app.write("\n\ndef test_flaky(llmcost):\n    assert False\n")
    later = {**PUSH, "github.sha": "d" * 40}
    job.run(later)
    assert (job.status, list(job.cache)) == (1, ["llmcost-baseline@" + "b" * 40])
    write(job, 3000)
    job.run(later)
    assert (job.status, list(job.cache)[1:]) == (0, ["llmcost-baseline@" + "d" * 40])


def test_a_limit_on_the_increase_fails_the_job_after_everything_is_shown(
    job: Job, github: GitHub
) -> None:
    job.run(PUSH)
    write(job, 3000)
    job.run(PULL_REQUEST, max_increase="10%", artifact="agents")
    assert job.status == 1
    assert (job.outputs["passed"], job.outputs["exceeded"]) == ("false", "1")
    assert (github.checks[0]["name"], github.checks[0]["conclusion"]) == ("agents", "failure")
    assert "1 budget exceeded" in github.comments[0]["body"]
    assert_reproduced(job, github.comments[0]["body"])


@pytest.mark.parametrize("limit", [{"max_test_increase": "1%"}, {"vanished": "fail"}])
@pytest.mark.parametrize("is_ledger", [False, True])
def test_other_limits_on_what_differs_from_the_default_branch_fail_the_job_too(
    job: Job, is_ledger: bool, limit: dict[str, str]
) -> None:
    job.run(PUSH)
    app = job.path / "test_app.py"
    app.write_text(app.read_text().replace('@max_cost("$1")\n', "").replace(": 10}", ": 20}"))
    ledger = {}
    if is_ledger:
        job.run({**PUSH, "github.sha": "d" * 40})
        (job.path / "shards.json").write_bytes(job.cache.popitem()[1])
        ledger = {"ledger": "shards.json"}
    job.run(PULL_REQUEST, **ledger)
    assert (job.status, job.outputs["passed"]) == (0, "true"), job.log
    job.run(PULL_REQUEST, **ledger, **limit)
    assert (job.status, job.outputs["passed"]) == (1, "false"), job.log


def test_a_baseline_that_cannot_be_read_is_made_anew_by_the_default_branch(job: Job) -> None:
    job.run(PUSH)
    for damaged in (b'{"schema": "pytest-llmcost/ledger/99"}', b"{"):
        job.cache = {key: damaged for key in job.cache}
        job.run(PULL_REQUEST)
        assert job.status != 0
        job.run(PUSH)
        assert job.status == 0, job.log
        assert "::warning title=LLM cost::The baseline in the cache cannot be read" in job.log
        job.run(PULL_REQUEST)
        assert (job.status, job.outputs["change-usd"]) == (0, "0"), job.log


def assert_reproduced(job: Job, comment: str) -> None:
    """The commands of the comment, with the artifact of the job in place, fail as the job did."""
    assert (
        "# llmcost/baseline.json is the baseline, measured at bbbbbbb\n"
        "rm -f llmcost/{baseline.json,cost.json,cost.md,cost.html}; "
        "gh run download 4711 --repo octo/shop --name agents --dir llmcost\n"
    ) in comment
    found = re.search("^pytest .*--llmcost-baseline=llmcost/baseline.json .*", comment, re.M)
    assert found
    for name, data in job.artifact.items():
        (job.path / "llmcost" / name).write_bytes(data)
    done = subprocess.run(
        ["bash", "-c", f"{found[0]} -p llmcost"],
        cwd=job.path,
        env={"PATH": f"{warm_bin()}{os.pathsep}{os.environ['PATH']}", "HOME": str(job.path),
             "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "2 passed" in done.stdout
    assert "over the" in done.stdout


def test_a_test_that_fails_for_another_reason_fails_the_job_too(job: Job, github: GitHub) -> None:
    write(job, 1000, holds=False)
    job.run(PULL_REQUEST)
    assert (job.status, job.outputs["passed"], job.outputs["exceeded"]) == (1, "false", "0")
    (job.path / "shards.json").write_bytes(job.artifact["cost.json"])
    job.run(PULL_REQUEST, ledger="shards.json")
    assert (job.status, job.outputs["passed"], job.outputs["exceeded"]) == (1, "false", "0")
    assert [check["conclusion"] for check in github.checks] == ["failure"] * 2


def test_the_command_may_be_anything_that_runs_pytest(job: Job) -> None:
    job.run(PULL_REQUEST, command="echo start && python -m pytest -k 'not test_b'; exit 7")
    assert job.status == 7
    assert job.outputs["total-usd"] == "0.00525"


def test_the_command_may_change_the_folder(job: Job, github: GitHub) -> None:
    (job.path / "sub").mkdir()
    (job.path / "test_app.py").rename(job.path / "sub" / "test_app.py")
    job.run(PUSH, command="cd sub && pytest")
    assert job.status == 0, job.log
    assert job.cache
    job.run(PULL_REQUEST, command="cd sub && pytest --llmcost-max-suite='$0.01'")
    assert (job.status, job.outputs["change-usd"]) == (1, "0")
    assert " --llmcost-baseline=../llmcost/baseline.json " in github.comments[0]["body"]
    assert " --dir ../llmcost\n" in github.comments[0]["body"]


def test_a_command_that_runs_pytest_twice_is_warned_of(job: Job) -> None:
    job.run(PULL_REQUEST)
    assert "::warning" not in job.log
    job.run(PULL_REQUEST, command="pytest && pytest -k test_a")
    assert "::warning title=LLM cost::The job summary has more than one part." in job.log


def test_the_command_to_fetch_the_baseline_names_the_folder_of_the_suite(
    job: Job, github: GitHub
) -> None:
    (job.path / "services").mkdir()
    (job.path / "test_app.py").rename(job.path / "services" / "test_app.py")
    job.run(PUSH, working_directory="services")
    job.run(
        PULL_REQUEST, working_directory="services", command="pytest --llmcost-max-suite='$0.01'"
    )
    assert " --dir llmcost  # in the folder services\n" in github.comments[0]["body"]


def test_a_command_that_writes_no_ledger_is_an_error_that_says_why(
    job: Job, github: GitHub
) -> None:
    job.run(PULL_REQUEST)
    assert job.status == 0
    job.run(PULL_REQUEST, command="true")
    assert job.status == 1, "an older ledger must not be taken for this one's"
    assert "::error title=LLM cost::No ledger was written." in job.log
    assert len(github.checks) == 1


def test_a_job_without_the_command_llmcost_is_told_so_before_its_tests_run(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr(sys.modules[__name__], "warm_bin", lambda: job.path)
    job.run(PULL_REQUEST, command="touch ran")
    assert job.status == 2, job.log
    assert "::error title=LLM cost::The job has no command llmcost. Install" in job.log
    assert not (job.path / "ran").exists()


def test_a_command_that_finds_no_test_says_nothing_of_what_merging_costs(
    job: Job, github: GitHub
) -> None:
    job.run(PUSH)
    broken = "echo 'import gone' > test_broken.py && pytest"
    for command, status in (("pytest gone.py", 4), ("pytest -k gone", 5), (broken, 2)):
        job.run(PULL_REQUEST, command=command)
        assert (job.status, job.outputs["change-usd"]) == (status, "")
        check = github.checks.pop()
        title = "No test ran, so nothing is known of what merging costs"
        assert (check["conclusion"], check["output"]["title"]) == ("failure", title)
        assert f"### {title}\n" in check["output"]["summary"]
    assert github.checks == []


@pytest.mark.parametrize("ledger", ["shard.json", "./llmcost/cost.json"])
def test_a_ledger_of_an_earlier_step_is_compared_shown_and_kept(
    job: Job, github: GitHub, ledger: str
) -> None:
    command = f"python -m pytest -q --llmcost-report={ledger}"
    environment = {
        "PATH": f"{warm_bin()}{os.pathsep}{os.environ['PATH']}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p llmcost",
    }

    def shard() -> None:
        subprocess.run(["bash", "-c", command], cwd=job.path, env=environment, check=True)

    shard()
    job.run(PUSH, ledger=ledger)
    assert job.status == 0, job.log
    assert list(job.cache.values()) == [(job.path / ledger).read_bytes()]
    for tokens, is_more in ((1000, False), (3000, True)):
        write(job, tokens)
        shard()
        job.run(PULL_REQUEST, ledger=ledger, max_increase="10%")
        assert job.status == is_more
        assert job.outputs["passed"] == str(not is_more).lower()
        assert bool(github.comments) == is_more
        assert job.summary == job.artifact["cost.md"].decode()


def test_a_ledger_is_compared_by_prices_of_one_s_own(job: Job) -> None:
    kinds = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
    rates = ", ".join(f"{kind} = 5" for kind in kinds)
    (job.path / "own.toml").write_text(
        f"[models.our-model]\nrates = [{{ from = 2020-01-01, {rates} }}]\n"
    )
    (job.path / "test_app.py").write_text(
        APP.format(tokens=1, holds=True).replace("claude-opus-4-7", "our-model")
    )
    job.run(PUSH, command="pytest --llmcost-prices=own.toml")
    (job.path / "shards.json").write_bytes(*job.cache.values())
    job.run(PULL_REQUEST, ledger="shards.json", prices="own.toml", max_increase="10%")
    assert (job.status, job.outputs["change-usd"]) == (0, "0"), job.log


def test_a_ledger_that_is_not_there_is_named_and_no_older_report_is_taken_for_its(
    job: Job, github: GitHub
) -> None:
    job.run(PULL_REQUEST)
    job.run(PULL_REQUEST, ledger="shards/cost.json")
    assert job.status == 2
    assert "::error title=LLM cost::No report of the ledger shards/cost.json was" in job.log
    assert "must run pytest" not in job.log
    assert len(github.checks) == 1


def test_the_token_of_a_fork_may_not_write_and_that_fails_nothing(job: Job, github: GitHub) -> None:
    job.run(PUSH)
    github.refused = ("POST", "PATCH")
    write(job, 3000)
    job.run(PULL_REQUEST)
    assert job.status == 0, job.log
    assert "No check was added" in job.log
    assert "No comment was written" in job.log
    assert job.artifact, "the second workflow takes the comment from here"


def test_without_a_look_at_the_comments_none_is_added(job: Job, github: GitHub) -> None:
    github.refused = ("GET",)
    write(job, 1000, holds=False)
    job.run(PULL_REQUEST)
    assert "No comment was written" in job.log
    assert github.comments == []


def test_neither_comment_nor_check_where_they_are_not_wanted(job: Job, github: GitHub) -> None:
    job.run(PUSH)
    write(job, 3000)
    job.run(PULL_REQUEST, comment="false", check="false")
    assert (github.comments, github.checks, github.tokens) == ([], [], set())


def test_a_run_of_an_older_commit_leaves_the_comment_of_a_newer_one(
    job: Job, github: GitHub
) -> None:
    job.run(PUSH)
    write(job, 3000)
    github.head = "d" * 40
    job.run(PULL_REQUEST)
    assert (job.status, github.comments) == (0, []), job.log
    job.run({**PULL_REQUEST, "github.event.pull_request.head.sha": github.head})
    (comment,) = github.comments
    assert "ddddddd against" in comment["body"]
    write(job, 5000)
    job.run(PULL_REQUEST)
    assert "ddddddd against" in comment["body"]
    assert "No comment was written" not in job.log
    assert [check["head_sha"][0] for check in github.checks] == ["a", "d", "a"]


def test_a_pull_request_that_only_loses_a_guard_gets_its_comment(job: Job, github: GitHub) -> None:
    job.run(PUSH)
    job.run(PULL_REQUEST)
    assert github.comments == []
    app = job.path / "test_app.py"
    app.write_text(app.read_text().replace('@max_cost("$1")\n', ""))
    job.run(PULL_REQUEST)
    (comment,) = github.comments
    assert (job.status, job.outputs["change-usd"]) == (0, "0"), job.log
    assert "1 guard vanished" in comment["body"]


def test_the_comment_is_found_behind_a_hundred_others_and_no_persons_is_taken_for_it(
    job: Job, github: GitHub
) -> None:
    others = [a_comment(f"{MARKER} like this?", "User") for _ in range(120)]
    github.comments = [*others, a_comment(f"{MARKER}\nold")]
    for number, each in enumerate(github.comments):
        each["id"] = number + 1
    job.run(PULL_REQUEST)
    assert job.status == 0, job.log
    assert len(github.comments) == 121
    assert "The suite costs" in github.comments[-1]["body"]
    assert all("like this?" in each["body"] for each in github.comments[:-1])


def test_the_comment_by_a_person_s_token_is_found_again(job: Job, github: GitHub) -> None:
    github.person = "octocat"
    github.comments = [{**a_comment(f"{MARKER} like this?", "User"), "id": 1}]
    write(job, 1000, holds=False)
    job.run(PULL_REQUEST)
    job.run(PULL_REQUEST)
    assert [each["user"]["login"] for each in github.comments] == ["somebody", "octocat"]
    assert "like this?" in github.comments[0]["body"]


def test_a_hostile_name_is_neither_run_nor_expanded(job: Job, github: GitHub) -> None:
    (job.path / "test_app.py").write_text(
        """
import pytest
from pytest_llmcost import max_cost

@max_cost("$0.000001")
@pytest.mark.parametrize("x", ['$(touch hacked)`touch hacked`"; touch hacked; #', "%0A::error::x"])
def test_a(llmcost, x):
    llmcost.record({"input_tokens": 1000, "output_tokens": 10}, model="claude-opus-4-7")
"""
    )
    job.run(PULL_REQUEST)
    assert (job.status, job.outputs["exceeded"]) == (1, "2")
    assert not (job.path / "hacked").exists()
    assert len(github.comments) == 1


def test_no_foreign_text_is_put_into_the_shell() -> None:
    assert not [step for step in ACTION["runs"]["steps"] if "${{" in step.get("run", "")]


def test_actions_of_others_are_pinned_to_a_commit() -> None:
    used = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z/-]+@[0-9a-f]{40}", each) for each in used)


@pytest.mark.parametrize(
    ("tool", "files"), [(("shellcheck",), "*.sh"), (("zizmor", "--offline"), "action.yml")]
)
def test_the_action_passes_the_linters(tool: tuple[str, ...], files: str) -> None:
    here = str(Path(sys.executable).parent)
    program = shutil.which(tool[0], path=f"{here}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"{tool[0]} is not installed")
    command = [program, *tool[1:], *map(str, sorted(FOLDER.glob(files)))]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
