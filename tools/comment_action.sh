#!/usr/bin/env bash
# Posts the grid to a pull request, or replaces the comment in which this job posted it before; other comments stay.
set -euo pipefail

[ -s "$FOLDER/grid.md" ] || exit 0
# Invisible on the page; each job of a workflow has a comment of its own.
marker="<!-- assay audit: ${GITHUB_JOB:-} -->"
comments="repos/$GH_REPO/issues/$NUMBER/comments"
posted() {
  local id
  { printf '%s\n' "$marker"; cat "$FOLDER/grid.md"; } >"$FOLDER/comment.md"
  id=$(MARKER="$marker" gh api --paginate "$comments" \
    --jq '.[] | select(.user.type == "Bot" and (.body | startswith(env.MARKER))) | .id') || return 1
  id=${id%%$'\n'*}
  if [ -n "$id" ]; then
    gh api --silent --method PATCH "repos/$GH_REPO/issues/comments/$id" --field "body=@$FOLDER/comment.md"
  else
    gh api --silent --method POST "$comments" --field "body=@$FOLDER/comment.md"
  fi
}
# A pull request from a fork has a token that may only read: the summary has the grid all the same.
posted || echo "::warning::the grid could not be posted to the pull request; it is in the job's summary"
