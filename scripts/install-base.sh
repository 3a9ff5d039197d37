#!/usr/bin/env bash
# Installs what the lab stands on: a few Debian packages on this machine, and a Debian 13 base root under
# $DROVER_HOME (default /var/lib/drover) with runc, nftables, redis-server, sshfs, an SSH server and criu >= 4.2.
# Idempotent, asks nothing, and needs no network once it has succeeded.
set -euo pipefail

home=${DROVER_HOME:-/var/lib/drover}
base=$home/base
# Part of the stamp: raise it when what the base holds changes, and every machine rebuilds its base.
revision=2
mirror=${DROVER_DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=runc,nftables,iproute2,redis-server,procps,iputils-ping,netcat-openbsd,busybox-static,ca-certificates,sshfs,openssh-server
say() { printf '%s\n' "drover: $*" >&2; }

[ "$(id -u)" = 0 ] || { say "cannot install the base: it needs root"; say "hint: run it with sudo"; exit 1; }

machine_packages() {
  local missing=()
  command -v debootstrap >/dev/null || missing+=(debootstrap)
  command -v ip >/dev/null || missing+=(iproute2)
  command -v nft >/dev/null || missing+=(nftables)
  command -v make >/dev/null || missing+=(make)
  [ "${#missing[@]}" = 0 ] && return
  say "installing Debian packages on this machine: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  # clean-lab.sh tells what came from here.
  mkdir -p "$home"
  printf '%s\n' "${missing[@]}" >>"$home/machine-packages"
}

build_base() {
  local work=$home/base.new
  rm -rf "$work"
  mkdir -p "$home"
  say "building the Debian 13 base in $base (about a minute, 350 MB)"
  debootstrap --variant=minbase --include="$packages" trixie "$work" "$mirror" >"$home/base.log" 2>&1 ||
    { tail -n 20 "$home/base.log" >&2; say "cannot build the base: debootstrap failed"; say "hint: the whole log is $home/base.log"; exit 1; }
  # criu alone comes from forky: Debian 13's own (4.1.1) cannot dump inet sockets on kernels >= 6.16.
  echo "deb $mirror forky main" >"$work/etc/apt/sources.list.d/forky.list"
  printf 'Package: *\nPin: release n=forky\nPin-Priority: 100\n' >"$work/etc/apt/preferences.d/forky"
  # No service may start inside the base, now or in a lab host.
  printf '#!/bin/sh\nexit 101\n' >"$work/usr/sbin/policy-rc.d"
  chmod 755 "$work/usr/sbin/policy-rc.d"
  cp -L /etc/resolv.conf "$work/etc/resolv.conf" 2>/dev/null || true
  {
    # A machine whose clock runs ahead of forky's Release file must still be able to install.
    chroot "$work" apt-get -o Acquire::Check-Valid-Until=false update -qq
    DEBIAN_FRONTEND=noninteractive chroot "$work" apt-get -o Acquire::Check-Valid-Until=false \
      install -y -qq --no-install-recommends -t forky criu
  } >>"$home/base.log" 2>&1 ||
    { tail -n 20 "$home/base.log" >&2; say "cannot install criu from forky"; say "hint: the whole log is $home/base.log"; exit 1; }
  chroot "$work" criu --version | awk '/^Version:/ { split($2, v, "."); exit !(v[1] > 4 || v[1] == 4 && v[2] >= 2) }' ||
    { say "cannot use the base: criu is older than 4.2"; exit 1; }
  rm -rf "$work"/var/cache/apt/archives/*.deb
  rm -rf "$base"
  mv "$work" "$base"
  echo "$revision" >"$base/.drover-base"
}

machine_packages
if [ "$(cat "$base/.drover-base" 2>/dev/null)" != "$revision" ]; then build_base; fi
say "base ready: $base"
