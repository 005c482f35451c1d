#!/usr/bin/env bash
# What action.yml runs: audits wheels, writes the grid to the job's summary, and keeps the exit code for the last step.
# All input comes through the environment, so that nothing of it is read as shell.
set -euo pipefail

words=()
while IFS= read -r line; do
  [ -n "$line" ] || continue
  matched=()
  # A pattern of files; anything else (NAME==VERSION, an address) stands for itself.
  while IFS= read -r file; do matched+=("$file"); done < <(compgen -G "$line" || true)
  if [ ${#matched[@]} -gt 0 ]; then
    words+=("${matched[@]}")
  elif [[ $line == *.whl && $line != *://* ]]; then
    echo "::error::no wheel matches $line; build it in an earlier step" >&2
    exit 2
  else
    words+=("$line")
  fi
done <<<"$INPUT_WHEELS"
if [ ${#words[@]} -eq 0 ]; then
  echo "::error::the input 'wheels' names none" >&2
  exit 2
fi

options=()
[ -z "${INPUT_TORCH:-}" ] || options+=(--torch "$INPUT_TORCH")
[ -z "${INPUT_TARGET:-}" ] || options+=(--target "$INPUT_TARGET")
[ -z "${INPUT_BASE:-}" ] || options+=(--base "$INPUT_BASE")
[ -z "${INPUT_INDEX:-}" ] || options+=(--index "$INPUT_INDEX")

out=$RUNNER_TEMP/assay-audit
mkdir -p "$out"
code=0
COLUMNS=${COLUMNS:-120} "${ASSAY:-assay}" audit "${options[@]}" --no-record \
  --write "$out/grid.md" --write "$out/grid.html" --write "$out/grid.svg" --write "$out/grid.json" \
  -- "${words[@]}" || code=$?

if [ -s "$out/grid.md" ]; then
  cat "$out/grid.md" >>"$GITHUB_STEP_SUMMARY"
else
  echo "The audit has no answer (exit code $code); the log says why." >>"$GITHUB_STEP_SUMMARY"
fi
{
  echo "code=$code"
  echo "folder=$out"
} >>"$GITHUB_OUTPUT"
