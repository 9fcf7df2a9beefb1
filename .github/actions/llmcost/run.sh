#!/usr/bin/env bash
# Run the suite, or take its ledger; write its reports to llmcost/ and its figures to $GITHUB_OUTPUT.
#
# Ends with 0 whatever became of the budgets, so that the steps behind it can show that; `status` is
# what the job is to end with.
set -euo pipefail

baseline=llmcost-baseline.json
reports=(llmcost/cost.json llmcost/cost.md llmcost/cost.html)
# Beside the reports, so that the artifact has it for those who reproduce the run.
compared=llmcost/baseline.json
known=$(cksum "$baseline" 2> /dev/null || true)
status=0

# Before the tests, because their environment may be another one.
if ! command -v llmcost > /dev/null; then
  echo "::error title=LLM cost::The job has no command llmcost. Install pytest-llmcost in the job, too," \
    "if the command runs pytest in an environment of its own, as tox, uv and containers do."
  exit 2
fi

# The cache restores by the beginning of a key, so only what ends every key tells two suites apart.
if [[ $BASELINE_KEY == *@* ]]; then
  echo "::error title=LLM cost::The baseline-key $BASELINE_KEY has an @, which ends the key in the cache; choose another one."
  exit 2
fi

for report in "${reports[@]}" "$compared"; do
  if [ ! "$report" -ef "$LEDGER" ]; then rm -f "$report"; fi
done
mkdir -p llmcost
# One of another version, for example, must not stop the branch whose run replaces it.
if [ "$IS_DEFAULT_BRANCH" = true ] && [ -f "$baseline" ] && ! llmcost render "$baseline" > /dev/null; then
  echo "::warning title=LLM cost::The baseline in the cache cannot be read, for the reason above. This run makes a new one."
  rm "$baseline"
fi
if [ "$IS_DEFAULT_BRANCH" != true ] && [ -f "$baseline" ]; then cp "$baseline" "$compared"; fi
# gh replaces no file, and those of an earlier run are of another baseline.
printf -v fetch 'rm -f {folder}/{baseline.json,cost.json,cost.md,cost.html}; gh run download %q --repo %q --name %q --dir {folder}' \
  "$GITHUB_RUN_ID" "$GITHUB_REPOSITORY" "$ARTIFACT"
if [ "$FOLDER" != ./llmcost ]; then fetch+="  # in the folder ${FOLDER%/llmcost}"; fi

run_command() {
  local here report paths=
  # Absolute, because the command may run pytest in another folder; bash on Windows has -W.
  here=$(pwd -W 2> /dev/null || pwd -P)
  for report in "${reports[@]}"; do paths+="$here/$report,"; done
  # By the environment, so that the command may be anything that runs pytest in the end.
  export PYTEST_LLMCOST_REPORT=$paths
  if [ "$IS_DEFAULT_BRANCH" = true ]; then
    export PYTEST_LLMCOST_BASELINE=$here/$baseline PYTEST_LLMCOST_UPDATE_BASELINE=true
  elif [ -f "$compared" ]; then
    export PYTEST_LLMCOST_BASELINE=$here/$compared PYTEST_LLMCOST_BASELINE_FETCH=$fetch
    if [ -n "$MAX_INCREASE" ]; then export PYTEST_LLMCOST_MAX_INCREASE=$MAX_INCREASE; fi
    if [ -n "$MAX_TEST_INCREASE" ]; then export PYTEST_LLMCOST_MAX_TEST_INCREASE=$MAX_TEST_INCREASE; fi
    if [ -n "$VANISHED" ]; then export PYTEST_LLMCOST_VANISHED=$VANISHED; fi
  fi
  bash -c "$COMMAND" || status=$?
}

take_ledger() {
  # An empty array is an unbound variable to the bash of macOS, 3.2.
  local outputs=("${reports[@]/#/--output=}") options=()
  if [ -f "$compared" ]; then
    if [ -n "$MAX_INCREASE" ]; then options+=("--max-increase=$MAX_INCREASE"); fi
    if [ -n "$MAX_TEST_INCREASE" ]; then options+=("--max-test-increase=$MAX_TEST_INCREASE"); fi
    if [ -n "$VANISHED" ]; then options+=("--vanished=$VANISHED"); fi
    if [ -n "$PRICES" ]; then options+=("--prices=$PRICES"); fi
    llmcost compare "$compared" "$LEDGER" "--baseline-fetch=$fetch" ${options[@]+"${options[@]}"} "${outputs[@]}" || status=$?
  else
    llmcost render "$LEDGER" "${outputs[@]}" || status=$?
  fi
  if [ "$IS_DEFAULT_BRANCH" = true ] && jq -e '.complete and .run.exit_status == 0' "$LEDGER" > /dev/null; then
    cp "$LEDGER" "$baseline"
  fi
  if [ -f llmcost/cost.md ]; then cat llmcost/cost.md >> "${GITHUB_STEP_SUMMARY:-/dev/null}"; fi
}

if [ -n "$LEDGER" ]; then take_ledger; else run_command; fi

# The page is written last.
if [ ! -f llmcost/cost.html ]; then
  if [ -n "$LEDGER" ]; then
    echo "::error title=LLM cost::No report of the ledger $LEDGER was written, for the reason above."
  else
    echo "::error title=LLM cost::No ledger was written. If the command ended with an error, see above; otherwise" \
      "it must run pytest with pytest-llmcost, without --llmcost-report, and hand PYTEST_LLMCOST_REPORT on (tox: passenv)."
  fi
  exit "$((status == 0 ? 1 : status))"
fi

# Each run begins its part of the summary with this line.
if [ "$(grep -c '^<!-- pytest-llmcost -->$' "${GITHUB_STEP_SUMMARY:-/dev/null}" || true)" -gt 1 ]; then
  echo "::warning title=LLM cost::The job summary has more than one part. If the command ran pytest more than once, the reports" \
    "and the baseline are those of the last run, and an earlier one was compared with a baseline that is not its own. Use the" \
    "action once for each, with a baseline-key and an artifact of its own."
fi
llmcost badge llmcost/cost.json --format=github-output >> "$GITHUB_OUTPUT"
if [ "$status" = 0 ] && grep -q '^passed=false$' "$GITHUB_OUTPUT"; then status=1; fi
{
  if [ "$status" != 0 ]; then echo "passed=false"; fi
  echo "report-path=$FOLDER"
  echo "status=$status"
  # The old one under the key of this commit would be in the way of a re-run that succeeds.
  if [ "$IS_DEFAULT_BRANCH" = true ] && [ -f "$baseline" ] && [ "$(cksum "$baseline")" != "$known" ]; then
    echo "new-baseline=true"
  fi
} >> "$GITHUB_OUTPUT"
