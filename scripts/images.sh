#!/usr/bin/env bash
# Makes the roots that the demo and the lab's tests run, under $DROVER_HOME/cache/images (default /var/lib/drover):
#   redis     a redis server, configured to keep nothing on disk and to serve whoever asks
#   toolbox   a shell and the usual commands
#   registry  a registry of images that keeps what it is given in /data
# Idempotent; the first run needs the network.
set -euo pipefail

home=${DROVER_HOME:-/var/lib/drover}
images=$home/cache/images
here=$(cd "$(dirname "$0")" && pwd)
say() { printf '%s\n' "drover: $*" >&2; }

# The image's configuration in the field names of an OCI image configuration, from standard input.
configure() {
  cat >"$images/$1/drover-image.json.new"
  # The same content has the same time, so that the tree stays the same.
  touch -d @1751328000 "$images/$1/drover-image.json.new"
  mv "$images/$1/drover-image.json.new" "$images/$1/drover-image.json"
  touch -d @1751328000 "$images/$1"
}

check() {
  local root=$images/$1
  shift
  chroot "$root" "$@" >/dev/null || { say "cannot use image $root: $1 does not run in it"; exit 1; }
}

mkdir -p "$images"

"$here/image-root.sh" redis "$images/redis" redis-server redis-tools dash coreutils libc-bin
configure redis <<'JSON'
{
  "Entrypoint": [],
  "Cmd": ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "*", "-::*", "--port", "6379"],
  "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  "WorkingDir": "/data",
  "User": ""
}
JSON
check redis /usr/bin/redis-server --version
check redis /bin/sh -c 'test -d /data && ls / | wc -l'

"$here/image-root.sh" toolbox "$images/toolbox" busybox-static bash coreutils libc6 libc-bin libgcc-s1 libstdc++6
configure toolbox <<'JSON'
{
  "Entrypoint": [],
  "Cmd": ["/bin/sh"],
  "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
  "WorkingDir": "/",
  "User": ""
}
JSON
check toolbox /bin/sh -c 'echo one | grep -q one && ls / | wc -l'
check toolbox /bin/bash -c 'vi --help 2>&1 | head -n 1; sleep 0'

"$here/image-root.sh" registry "$images/registry" docker-registry
cat >"$images/registry/etc/registry.yml" <<'YAML'
version: 0.1
log: { level: info }
storage: { filesystem: { rootdirectory: /data } }
http: { addr: ":5000" }
YAML
touch -d @1751328000 "$images/registry/etc/registry.yml" "$images/registry/etc"
configure registry <<'JSON'
{
  "Entrypoint": ["/usr/bin/docker-registry"],
  "Cmd": ["serve", "/etc/registry.yml"],
  "ExposedPorts": { "5000/tcp": {} }
}
JSON
check registry /usr/bin/docker-registry --version
say "images ready: $images/redis $images/toolbox $images/registry"
