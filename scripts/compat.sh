#!/usr/bin/env bash
# Tests this release beside an older one: compat.sh REVISION. Builds that revision below target/compat, and runs the tests of
# nodes of two releases (crates/drover/tests/lab/compat.rs) with it. Needs root, for labs.
set -euo pipefail
cd "$(dirname "$0")/.."

revision=$(git rev-parse --verify "$1^{commit}")
built=target/compat/$revision
if [[ ! -x $built/release/drover ]]; then
  tree=$(mktemp -d)
  trap 'git worktree remove --force "$tree"' EXIT
  git worktree add --quiet --detach "$tree" "$revision"
  cargo build --manifest-path "$tree/Cargo.toml" --target-dir "$built" --release --locked --bin drover
fi
echo "==> $(git log -1 --format='%h of %cs' "$revision"), and this one"
DROVER_OLD=$PWD/$built/release/drover exec cargo test --release --locked --workspace --test lab -- compat:: --test-threads=2
