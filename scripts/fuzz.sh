#!/usr/bin/env bash
# Fuzzes targets, one after the other, and notes what came of it: fuzz.sh SECONDS [TARGET...] (all without one). Needs
# cargo-fuzz in PATH (`make cargo-fuzz`), a C++ compiler, and root, for trees that arrive have owners. No nightly compiler and no
# sanitizer: overflows are checked, memory is bounded by the kernel, and there is no unsafe code to be looked after.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=$1
shift
triple=$(rustc -vV | sed -n 's/^host: //p')
logs=fuzz/target/logs
# The longest input, the seconds that one may take, the MiB that the process may have.
bounds=(-max_len=65536 -timeout=20 -rss_limit_mb=2048)

targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
  mapfile -t targets < <(cargo fuzz list)
fi
mkdir -p "$logs"
cargo fuzz build --sanitizer none --target "$triple"

failed=0
for target in "${targets[@]}"; do
  corpus=fuzz/corpus/$target
  mkdir -p "$corpus" "fuzz/artifacts/$target" "fuzz/regressions/$target"
  echo "==> $target for $seconds s"
  if ! "fuzz/target/$triple/release/$target" -artifact_prefix="fuzz/artifacts/$target/" "${bounds[@]}" \
    -max_total_time="$seconds" -print_final_stats=1 "$corpus" "fuzz/seeds/$target" "fuzz/regressions/$target" \
    >"$logs/$target.log" 2>&1 </dev/null; then
    failed=1
    tail -25 "$logs/$target.log"
    echo "$target: an input that breaks it is below fuzz/artifacts/$target; mend it, and keep it below fuzz/regressions/$target"
  fi
  # A target without findings has no directory for them.
  rmdir --ignore-fail-on-non-empty "fuzz/regressions/$target"
  scripts/fuzz-report.sh "$target"
done
exit "$failed"
