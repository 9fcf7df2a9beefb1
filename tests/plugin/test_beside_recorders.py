"""Beside pytest-recording, plain vcrpy and cassetter: seen, and left as it was."""

from __future__ import annotations

import anthropic
import pytest
from conftest import Project, calls_of
from standin import StandIn

STRICT = ("-W", "error", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
"""Warnings are errors, but for the one that runs in one process bring about themselves."""

APP = """
    import anthropic

    def ask(words=1, **more):
        with anthropic.Anthropic(max_retries=0) as client:
            return client.messages.create(
                model="claude-opus-4-7", max_tokens=100,
                messages=[{"role": "user", "content": "word " * words}], **more)
"""


def run(project: Project, *args: str, plugins: tuple[str, ...] = ()) -> pytest.RunResult:
    return project.run(*STRICT, "--llmcost-report=ledger.json", *args, plugins=plugins)


def test_pytest_recording_records_replays_and_blocks_as_alone(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        @pytest.mark.vcr
        @pytest.mark.block_network
        @max_cost("$1", calls=2)
        def test_two(vcr):
            ask()
            list(ask(stream=False).content)
            assert vcr.play_count in (0, 2)
            assert len(vcr) == 2
        """,
    )
    project.run("--record-mode=once", plugins=("recording",)).assert_outcomes(passed=1)
    (cassette,) = project.path.rglob("cassettes/**/test_two.yaml")
    before, seen = cassette.read_bytes(), len(standin.requests)
    run(project, plugins=("recording",)).assert_outcomes(passed=1)
    assert [(call["evidence"], call["live"]) for call in calls_of(project)] == [
        ("billed", False)
    ] * 2
    assert cassette.read_bytes() == before
    assert len(standin.requests) == seen == 2


def test_pytest_recording_s_block_fails_a_call_as_alone(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import anthropic
        import pytest
        from app import ask

        @pytest.mark.block_network
        def test_blocked():
            with pytest.raises(anthropic.APIConnectionError) as caught:
                ask()
            assert "disabled" in str(caught.value.__cause__)
        """,
    )
    # A process of its own: the socket that was blocked is left to the garbage collector.
    result = project.run_apart("-W", "ignore::ResourceWarning", plugins=("recording",))
    result.assert_outcomes(passed=1)
    assert standin.requests == []


def test_plain_vcrpy_in_the_test_s_body_and_as_a_decorator(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import vcr
        from app import ask
        from pytest_llmcost import max_cost

        recorder = vcr.VCR(record_mode="once", filter_headers=["x-api-key"])

        @max_cost("$1")
        def test_inside():
            with recorder.use_cassette("inside.yaml"):
                ask()

        @recorder.use_cassette("decorated.yaml")
        @max_cost("$1")
        def test_decorated():
            ask()
        """,
    )
    run(project).assert_outcomes(passed=2)
    assert [call["live"] for call in calls_of(project)] == [True, True]
    run(project).assert_outcomes(passed=2)
    assert [(call["evidence"], call["live"]) for call in calls_of(project)] == [
        ("billed", False)
    ] * 2
    assert len(standin.requests) == 2


def test_an_outgrown_cassette_of_plain_vcrpy_is_noticed(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import os
        import vcr
        from app import ask
        from pytest_llmcost import max_cost

        @max_cost("$1")
        def test_inside():
            with vcr.use_cassette("inside.yaml", record_mode="once"):
                ask(words=int(os.environ.get("WORDS", "1")))
        """,
    )
    run(project).assert_outcomes(passed=1)
    project.write(conftest="import os\nos.environ['WORDS'] = '5000'\n")
    result = run(project)
    result.assert_outcomes(failed=1)
    assert [call["evidence"] for call in calls_of(project)] == ["stale"]
    result.stdout.fnmatch_lines(["*messages.0*"])


def test_a_recording_that_hides_the_prompt_is_not_comparable_and_said_once(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import json
        import vcr
        from app import ask
        from pytest_llmcost import max_cost

        def hide(request):
            request.body = json.dumps({**json.loads(request.body), "messages": []})
            return request

        recorder = vcr.VCR(record_mode="once", before_record_request=hide)

        @max_cost("$1")
        def test_under_a_ceiling():
            with recorder.use_cassette("one.yaml"):
                ask()

        def test_free():
            with recorder.use_cassette("two.yaml"):
                ask()
        """,
    )
    run(project).assert_outcomes(passed=2)
    result = run(project)
    result.assert_outcomes(passed=1, failed=1)
    assert result.stdout.str().count("cannot be checked against what is sent now") == 1
    assert all("not-comparable" in call["caveats"][0] for call in calls_of(project))


def test_cassetter_s_replays_are_not_live_and_not_comparable(
    project: Project, standin: StandIn
) -> None:
    pytest.importorskip("cassetter")
    project.online(standin).write(
        app=APP,
        test_app="""
        import cassetter
        from app import ask

        def test_inside():
            with cassetter.use_cassette("one.yaml", record_mode="once"):
                ask()
        """,
    )
    run(project).assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1)
    (call,) = calls_of(project)
    assert (call["live"], call["caveats"]) == (False, ["not-comparable: cassetter replayed it"])


@pytest.mark.parametrize("recorder", ["vcr", "cassetter"])
def test_replayed_results_of_a_batch_created_elsewhere_have_no_prompt_to_compare(
    project: Project, standin: StandIn, recorder: str
) -> None:
    pytest.importorskip(recorder)
    asked = {
        "model": "claude-opus-4-7",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hi"}],
    }
    with anthropic.Anthropic(api_key="none", base_url=standin.url) as client:
        batch = client.messages.batches.create(
            requests=[{"custom_id": name, "params": asked} for name in "ab"]  # type: ignore[typeddict-item]
        )
    project.online(standin).write(
        test_app=f"""
        import anthropic
        import {recorder}
        from pytest_llmcost import max_cost

        @max_cost("$1")
        def test_reads():
            with {recorder}.use_cassette("one.yaml", record_mode="once"):
                with anthropic.Anthropic() as client:
                    assert len([*client.messages.batches.results({batch.id!r})]) == 2
        """,
    )
    run(project).assert_outcomes(passed=1)
    live = [(call["usd"], call["caveats"]) for call in calls_of(project)]
    run(project).assert_outcomes(passed=1)
    assert [(call["usd"], call["caveats"]) for call in calls_of(project)] == live
    assert [call["live"] for call in calls_of(project)] == [False, False]
