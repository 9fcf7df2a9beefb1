#!/usr/bin/env bash
# Show a run in its pull request: a check whose title is the number, and one comment.
#
# The token of a fork's pull request may do neither. That is no failure: the job's summary has all.
set -euo pipefail

marker='<!-- pytest-llmcost -->'
repository="$GITHUB_API_URL/repos/$GITHUB_REPOSITORY"
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# call METHOD URL [BODY]: the answer is in the file $answer. The token is no argument, which every
# process of the machine could read.
call() {
  curl --silent --show-error --fail --retry 2 --max-time 30 --output "$answer" --request "$1" \
    --header 'Accept: application/vnd.github+json' --config - ${3:+--data-binary "@$3"} "$2" \
    <<< "header = \"Authorization: Bearer $TOKEN\""
}

notice() { echo "::notice title=LLM cost::$1"; }

add_check() {
  local body conclusion=success
  if [ "$PASSED" != true ]; then conclusion=failure; fi
  body=$(mktemp)
  jq -n --arg name "$NAME" --arg title "$TITLE" --arg commit "$COMMIT" --arg conclusion "$conclusion" \
    --rawfile summary "$FOLDER/cost.md" '{
      name: $name, head_sha: $commit, status: "completed", conclusion: $conclusion,
      output: {title: $title, summary: $summary}}' > "$body"
  call POST "$repository/check-runs" "$body" \
    || notice "No check was added, for the reason above. If it is 403, the job needs the permission checks: write; a person's token never has it."
  rm -f "$body"
}

# The comment of an earlier run; nothing if there is none. A comment of a person is never taken for it,
# unless the token is this person's; that of a job or an app may not ask whose it is.
find_comment() {
  local page id login
  login=$(call GET "$GITHUB_API_URL/user" 2> /dev/null && jq -r .login "$answer") || login=
  for page in 1 2 3 4 5 6 7 8 9 10; do
    call GET "$repository/issues/$NUMBER/comments?per_page=100&page=$page" || return
    id=$(jq -r --arg marker "$marker" --arg login "$login" '[.[] | select(
      (.user.type == "Bot" or .user.login == $login) and (.body | startswith($marker)))][0].id // empty' "$answer")
    if [ -n "$id" ] || [ "$(jq length "$answer")" -lt 100 ]; then break; fi
  done
  echo "$id"
}

comment() {
  local body id
  # A run of an older commit that ends later, or is run again, has no news.
  call GET "$repository/pulls/$NUMBER" || return
  if [ "$(jq -r .head.sha "$answer")" != "$COMMIT" ]; then return; fi
  id=$(find_comment) || return
  body=$(mktemp)
  jq -n --rawfile body "$FOLDER/cost.md" '{body: $body}' > "$body"
  if [ -n "$id" ]; then
    call PATCH "$repository/issues/comments/$id" "$body"
  elif [ "$PASSED" != true ] || jq -e '.comparison
      | (.change_usd // "0" | tonumber) > 0 or (.vanished // []) != []' "$FOLDER/cost.json" > /dev/null; then
    call POST "$repository/issues/$NUMBER/comments" "$body"
  fi
}

if [ "$CHECK" = true ]; then add_check; fi
if [ "$COMMENT" = true ]; then
  comment || notice "No comment was written, for the reason above. If it is 403, the job needs the permission pull-requests: write."
fi
