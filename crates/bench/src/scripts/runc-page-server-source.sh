# runc's stop-and-copy with CRIU's page server, on the source: memory goes to the target as it is dumped.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
images=/run/bench/images work=/run/bench/work
now begin
runc checkpoint --page-server $TARGET:9001 --tcp-established --image-path $images --work-path $work ct >&2
now dumped
tar -C $images -cf - . >/dev/tcp/$TARGET/7000
now sent
