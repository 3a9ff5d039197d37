#!/usr/bin/env bash
# What overlays save, beside shipping the whole image: two images of Debian packages, one that adds little to a base and
# one that adds much, in a lab of two nodes of which the second has the base alone. The argument is the program `drover`
# (`make bench-synthesis` gives it). LEVEL is that of Zstandard, RUNS how often each
# time is taken; the median counts.
set -euo pipefail

PATH=$(dirname "$(readlink -f "${1:?the program}")"):$PATH
here=$(cd "$(dirname "$0")" && pwd)
roots=${DROVER_HOME:-/var/lib/drover}/cache/images
runs=${RUNS:-3}
level=${LEVEL:-9}
export DROVER_LAB=${DROVER_LAB:-bench-synthesis}
base=(bash coreutils libc-bin grep sed gawk findutils tar gzip debianutils util-linux perl-base)

"$here/image-root.sh" synthesis-base "$roots/synthesis-base" "${base[@]}"
"$here/image-root.sh" synthesis-little "$roots/synthesis-little" "${base[@]}" redis-server redis-tools
"$here/image-root.sh" synthesis-much "$roots/synthesis-much" "${base[@]}" postgresql python3

work=$(mktemp -d)
trap 'drover lab down >/dev/null || true; rm -rf "$work"' EXIT
drover lab up >/dev/null
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.1f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
# The seconds that a command takes, once for each run, each time after what $1 says.
timed() {
  local before=$1 began
  shift
  for _ in $(seq "$runs"); do
    $before >/dev/null
    began=$EPOCHREALTIME
    "$@" >/dev/null
    awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'
  done | median
}
mib() { awk -v bytes="$(stat -c %s "$1")" 'BEGIN { printf "%.1f", bytes / 1048576 }'; }
away() { drover image rm "$1" --node n2 >/dev/null 2>&1 || true; }
digest() { drover image inspect "$1" --node "$2" --json | sed -nE 's/^ *"digest": "(.*)".*/\1/p' | head -n 1; }
pack() { "$@" -c "$work/image.tar" >"$work/packed"; }
# One row: the way, the file, the seconds to make it, the seconds until the image is there.
row() { printf '| %s | %s | %s MiB | %s s | %s s |\n' "$image" "$1" "$(mib "$2")" "$3" "$4"; }

drover image import base "$roots/synthesis-base" >/dev/null
printf '| Image | Shipped as | Size | Made in | There in |\n|---|---|---|---|---|\n'
for image in little much; do
  drover image import "$image" "$roots/synthesis-$image" --node n1 >/dev/null
  made=$(timed true drover image overlay base "$image" --node n1 --level "$level" -o "$work/overlay")
  there=$(timed "away $image" drover image synthesize base "$work/overlay" --node n2)
  [ "$(digest "$image" n1)" = "$(digest "$image" n2)" ] || { echo "drover: image $image is another one" >&2; exit 1; }
  row "overlay" "$work/overlay" "$made" "$there"
  # What `docker save` writes is the layers' tars with little around them.
  made=$(timed true tar -C "$roots/synthesis-$image" --sort=name --numeric-owner -cf "$work/image.tar" .)
  row "tar" "$work/image.tar" "$made" "$(timed "away $image" drover image import "$image" "$work/image.tar" --node n2)"
  for way in "gzip -6" "zstd -3 -q" "zstd -$level -q"; do
    # shellcheck disable=SC2086 # The way is a command with its options.
    made=$(runs=1 timed true pack $way)
    row "tar, ${way% -q}" "$work/packed" "$made" \
      "$(timed "away $image" drover image import "$image" "$work/packed" --node n2)"
  done
  away "$image"
done
