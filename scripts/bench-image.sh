#!/usr/bin/env bash
# Makes the root that `make bench` moves as a database, $DROVER_HOME/cache/images/postgres (default /var/lib/drover): a
# PostgreSQL server that keeps its files in /data and trusts whoever asks. Idempotent; the first run needs the network.
set -euo pipefail

root=${DROVER_HOME:-/var/lib/drover}/cache/images/postgres
here=$(cd "$(dirname "$0")" && pwd)
# The time of all files that come from no package, as in image-root.sh.
epoch=@1751328000
say() { printf '%s\n' "drover: $*" >&2; }

"$here/image-root.sh" postgres "$root" postgresql-17 dash coreutils libc-bin

# PostgreSQL refuses to run as root, and looks its user up.
grep -q ^postgres: "$root/etc/passwd" || {
  echo postgres:x:26:26:postgres:/data:/bin/sh >>"$root/etc/passwd"
  echo postgres:x:26: >>"$root/etc/group"
}
mkdir -p "$root/var/run/postgresql" "$root/run/postgresql"
chown 26:26 "$root/data" "$root/run/postgresql"
chmod 700 "$root/data"
cat >"$root/usr/bin/serve-postgres" <<'SH'
#!/bin/sh
# Makes a cluster of databases in /data, if there is none, and serves it. What is committed is on disk: fsync is on.
set -eu
PATH=/usr/lib/postgresql/17/bin:$PATH
[ -e /data/PG_VERSION ] || {
  initdb -D /data -A trust --no-locale -E UTF8
  echo 'host all all all trust' >>/data/pg_hba.conf
}
exec postgres -D /data -c 'listen_addresses=*' -c unix_socket_directories= "$@"
SH
chmod 755 "$root/usr/bin/serve-postgres"
cat >"$root/drover-image.json" <<'JSON'
{
  "Entrypoint": ["serve-postgres"],
  "Cmd": [],
  "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  "WorkingDir": "/data",
  "User": "26:26"
}
JSON
find "$root" -newermt "$epoch" -exec touch -h -d "$epoch" {} +
chroot "$root" /usr/lib/postgresql/17/bin/postgres --version >/dev/null ||
  { say "cannot use image $root: postgres does not run in it"; exit 1; }
say "image ready: $root"
