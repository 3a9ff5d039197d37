# Starts the container under runc: the bundle is in /run/bench/bundle.
set -eu
cd /run/bench/bundle
exec runc run -d --pid-file /run/bench/pid ct </dev/null >/dev/null 2>&1
