#!/usr/bin/env bash
# Installs what `make bench` compares Drover with: a second base root, $DROVER_HOME/peers-base (default
# /var/lib/drover), that has all of the lab's base (runc and criu >= 4.2 among it) and Debian 13's Podman and rsync besides,
# and PostgreSQL's client programs.
# The ordinary base stays as it is. Idempotent, asks nothing, and needs no network once it has succeeded.
set -euo pipefail

home=${DROVER_HOME:-/var/lib/drover}
base=$home/base
peers=$home/peers-base
log=$home/peers-base.log
# Part of the stamp: raise it when what the root holds changes, and every machine rebuilds it.
revision=2
# netavark makes Podman's networks; crun and systemd, which Podman recommends, have no part in a comparison on runc.
packages=(podman conmon netavark golang-github-containers-common rsync postgresql-client-17)
say() { printf '%s\n' "drover: $*" >&2; }
fail() {
  [ ! -s "$log" ] || tail -n 20 "$log" >&2
  say "cannot install the peers: $1"
  [ $# -lt 2 ] || say "hint: $2"
  exit 1
}

[ "$(id -u)" = 0 ] || fail "it needs root" "run it with sudo"
[ -e "$base/.drover-base" ] || fail "there is no base in $base" "run scripts/install-base.sh"
wanted="base $(cat "$base/.drover-base"), peers $revision: ${packages[*]}"

in_root() {
  # A machine whose clock runs ahead of forky's Release file must still be able to install.
  DEBIAN_FRONTEND=noninteractive chroot "$peers.new" apt-get -q -o Acquire::Check-Valid-Until=false "$@" >>"$log" 2>&1
}

build() {
  say "building the root with the peers in $peers (about a minute, 800 MB)"
  : >"$log"
  rm -rf --one-file-system "$peers.new"
  cp -a --reflink=auto "$base" "$peers.new"
  cp -L /etc/resolv.conf "$peers.new/etc/resolv.conf" 2>/dev/null || true
  in_root update || fail "apt-get update failed" "the whole log is $log"
  in_root install -y --no-install-recommends -t trixie "${packages[@]}" ||
    fail "apt-get install failed" "the whole log is $log"
  # Debian has pgbench in the server's package, of which nothing else is wanted.
  { in_root download postgresql-17 && chroot "$peers.new" sh -ec 'dpkg-deb --fsys-tarfile /postgresql-17_*.deb |
    tar -C / -xf - ./usr/lib/postgresql/17/bin/pgbench; rm /postgresql-17_*.deb; pgbench --version' >>"$log" 2>&1; } ||
    fail "pgbench cannot be taken out of its package" "the whole log is $log"
  chroot "$peers.new" criu --version | awk '/^Version:/ { split($2, v, "."); exit !(v[1] > 4 || v[1] == 4 && v[2] >= 2) }' ||
    fail "criu is older than 4.2"
  rm -rf "$peers.new"/var/cache/apt/archives/*.deb
  printf '%s\n' "$wanted" >"$peers.new/.drover-peers"
  rm -rf --one-file-system "$peers"
  mv "$peers.new" "$peers"
}

if [ "$(cat "$peers/.drover-peers" 2>/dev/null)" != "$wanted" ]; then build; fi
say "peers ready: $peers"
