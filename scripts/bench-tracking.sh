#!/usr/bin/env bash
# What it costs a redis server to be followed: its throughput without, with a survey each second, and with ten a second, by
# turns. The argument is the program of crates/memory/examples/tracking.rs (`make bench-tracking` gives it).
#
# The server, of the image that `scripts/images.sh` makes, has 256 MiB of values and listens in a network namespace of its
# own. TURNS says how many runs of each kind there are.
set -euo pipefail

tracking=$(readlink -f "${1:?the program}")
root=${DROVER_HOME:-/var/lib/drover}/cache/images/redis
turns=${TURNS:-9}
requests=${REQUESTS:-100000}
port=7379
[ -x "$root/usr/bin/redis-benchmark" ] || { echo "drover: cannot find redis in $root" >&2; echo "drover: hint: run scripts/images.sh" >&2; exit 1; }
# In a network of its own, with a loopback.
if [ "${IN_NETWORK:-}" != yes ]; then IN_NETWORK=yes exec unshare -n "$(readlink -f "$0")" "$tracking"; fi
ip link set lo up

chroot "$root" /usr/bin/redis-server --port $port --bind 127.0.0.1 --save "" --appendonly no --daemonize no \
  --enable-debug-command local >/dev/null &
server=$!
trap 'kill $server; wait $server 2>/dev/null || true' EXIT
ask() { chroot "$root" /usr/bin/redis-cli -p $port "$@"; }
for _ in $(seq 100); do ask ping 2>/dev/null | grep -q PONG && break; sleep 0.1; done
ask debug populate 262144 key 1024 >/dev/null
[ "$(ask dbsize)" = 262144 ] || { echo "drover: cannot fill the server" >&2; exit 1; }

# SET of 1 KiB values at random keys: operations each second.
load() {
  chroot "$root" /usr/bin/redis-benchmark -p $port -c 20 -n "$requests" -r 262144 -d 1024 --csv \
    SET key:__rand_int__ __data__ | tail -n 1 | cut -d '"' -f 4
}
# As load, followed every $1 milliseconds.
followed() {
  local out=$work/survey-$1
  mkfifo "$work/stop"
  "$tracking" follow $server "$1" <"$work/stop" >>"$out" 2>/dev/null &
  local follower=$!
  exec 9>"$work/stop"
  load
  exec 9>&-
  wait $follower
  rm "$work/stop"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

work=$(mktemp -d)
trap 'kill $server; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT
load >/dev/null
for turn in $(seq "$turns"); do
  # There and back, so that what else the machine does is shared.
  if [ $((turn % 2)) = 1 ]; then a=$(load); b=$(followed 1000); c=$(followed 100)
  else c=$(followed 100); b=$(followed 1000); a=$(load); fi
  echo "$a" >>"$work/plain"; echo "$b" >>"$work/second"; echo "$c" >>"$work/tenth"
  echo "turn $turn: not followed $a, each second $b, ten a second $c operations each second"
done
plain=$(median <"$work/plain")
for kind in plain second tenth; do
  value=$(median <"$work/$kind")
  awk -v kind=$kind -v value="$value" -v plain="$plain" \
    'BEGIN { printf "median %s: %.0f operations each second, ratio %.3f\n", kind, value, value / plain }'
done
echo "surveys (how many, median microseconds, median pages), each second:"; cat "$work/survey-1000"
echo "ten a second:"; cat "$work/survey-100"
"$tracking" writes 65536
