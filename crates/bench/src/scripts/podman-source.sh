# Podman's checkpoint and restore, on the source: the archive is sent while it is written, uncompressed.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
rm -f /run/bench/archive
mkfifo /run/bench/archive
cat /run/bench/archive >/dev/tcp/$TARGET/7000 &
cat=$!
now begin
podman container checkpoint --export /run/bench/archive --compress none --tcp-established ct >&2
now dumped
wait $cat
now sent
