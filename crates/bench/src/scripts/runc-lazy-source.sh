# runc's lazy migration, on the source: dump all but memory, send that, and serve the pages until none is left.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
images=/run/bench/images work=/run/bench/work
rm -f /run/bench/ready
mkfifo /run/bench/ready
now begin
runc checkpoint --lazy-pages --page-server 0.0.0.0:9000 --status-fd 3 --tcp-established \
  --image-path $images --work-path $work ct 3>/run/bench/ready >&2 &
runc=$!
# One byte says that the page server listens and the images are written.
read -r -N 1 _ </run/bench/ready || true
now dumped
tar -C $images -cf - . >/dev/tcp/$TARGET/7000
now sent
wait $runc
now served
