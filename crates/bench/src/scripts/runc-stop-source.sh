# runc's stop-and-copy, on the source: dump into memory, send, forget.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
images=/run/bench/images work=/run/bench/work
now begin
runc checkpoint --tcp-established --image-path $images --work-path $work ct >&2
now dumped
tar -C $images --blocking-factor=512 -cf - . >/dev/tcp/$TARGET/7000
now sent
