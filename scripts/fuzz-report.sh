#!/usr/bin/env bash
# Notes the newest runs of targets in fuzz/results.tsv, from their logs, and writes the table of docs/fuzzing.md anew.
# fuzz-report.sh [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

results=fuzz/results.tsv
touch "$results"
for target in "$@"; do
  log=fuzz/target/logs/$target.log
  executions=$(sed -nE 's/^stat::number_of_executed_units: +([0-9]+)/\1/p' "$log" | tail -1)
  seconds=$(sed -nE 's/^Done [0-9]+ runs in ([0-9]+) second.*/\1/p' "$log" | tail -1)
  edges=$(sed -nE 's/.* cov: ([0-9]+) .*/\1/p' "$log" | tail -1)
  crashes=$(grep -c 'Test unit written to' "$log" || true)
  inputs=$(find "fuzz/corpus/$target" -type f | wc -l)
  {
    grep -vP "^$target\t" "$results" || true
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$target" "$(date -u -r "$log" +%F)" "${seconds:-0}" "${executions:-0}" \
      "${edges:-0}" "$inputs" "$crashes"
  } | sort >"$results.next"
  mv "$results.next" "$results"
done

table() {
  echo
  echo '| Target | Date | Seconds | Executions | Edges | Inputs kept | Crashes |'
  echo '|---|---|---:|---:|---:|---:|---:|'
  awk -F'\t' '{ printf "| `%s` | %s | %s | %s | %s | %s | %s |\n", $1, $2, $3, $4, $5, $6, $7 }' "$results"
  echo
}

document=docs/fuzzing.md
{
  sed '/^<!-- results -->$/q' "$document"
  table
  sed -n '/^<!-- end of results -->$/,$p' "$document"
} >"$document.next"
mv "$document.next" "$document"
