#!/usr/bin/env bash
# Makes a root file system for a container from Debian 13 packages and all that they depend on:
#   image-root.sh NAME OUT PACKAGE...
# The apt of the base (install-base.sh) finds and fetches the packages. Archives stay under $DROVER_HOME/cache/debs
# (default /var/lib/drover) and the list of what NAME needs under $DROVER_HOME/cache/roots, so that a second run needs
# no network, and does nothing when OUT has been made from the same packages.
set -euo pipefail

home=${DROVER_HOME:-/var/lib/drover}
base=$home/base
debs=$home/cache/debs
# Part of the stamp: raise it when this script puts something else into a root.
revision=1
# What only the scripts need that run when a package is installed; they never run here.
unneeded='^(adduser|debconf|init-system-helpers)_'
# The time of all files that come from no package, so that the same packages make the same tree.
epoch=@1751328000
say() { printf '%s\n' "drover: $*" >&2; }

[ $# -ge 3 ] || { say "usage: image-root.sh NAME OUT PACKAGE..."; exit 2; }
name=$1 out=${2%/}
shift 2
fail() {
  say "cannot make image root $name: $1"
  [ $# -lt 2 ] || say "hint: $2"
  exit 1
}
case $name in '' | .* | *[!A-Za-z0-9._-]*) fail "its name may hold letters, digits, '.', '_' and '-'" ;; esac
[ -n "$out" ] || fail "it cannot be made in /"
[ "$(id -u)" = 0 ] || fail "it needs root" "run it with sudo"
[ -x "$base/usr/bin/apt-get" ] || fail "there is no base in $base" "run scripts/install-base.sh"

list=$home/cache/roots/$name.list
made=$home/cache/roots/$name.made
log=$home/cache/roots/$name.log
mkdir -p "$debs" "$home/cache/roots"
exec 9>"$home/cache/lock"
flock 9
: >"$log"

wanted="revision $revision: $*"

in_base() {
  # The clock of this machine may be past the validity of forky's Release file.
  DEBIAN_FRONTEND=noninteractive chroot "$base" apt-get -q -o Acquire::Check-Valid-Until=false "$@" 2>>"$log"
}

# Against an empty status file apt believes that nothing is installed, so that its answer is the whole closure.
from_nothing() {
  in_base -o Dir::State::status=/dev/null --no-install-recommends -y "$@"
}

# Writes the archives' names and sizes, headed by what they were computed for.
list_closure() {
  from_nothing --print-uris install "$@" >"$list.uris" || return 1
  { printf '%s\n' "$wanted"; awk '/^\047/ { print $2, $3 }' "$list.uris"; } >"$list.new"
  rm "$list.uris"
  mv "$list.new" "$list"
}

have_all() {
  local file size
  [ "$(head -n 1 "$list" 2>/dev/null)" = "$wanted" ] || return 1
  while read -r file size; do
    [ "$(stat -c %s "$debs/$file" 2>/dev/null)" = "$size" ] || return 1
  done < <(tail -n +2 "$list")
}

# apt checks each archive against the signed lists.
fetch() {
  local archives=$base/var/cache/drover-debs
  mkdir -p "$archives/partial"
  cp -n "$debs"/*.deb "$archives/" 2>/dev/null || true
  from_nothing -o Dir::Cache::archives=/var/cache/drover-debs -o APT::Sandbox::User=root \
    --download-only install "$@" >>"$log" || return 1
  mv "$archives"/*.deb "$debs/"
  rm -rf "$archives"
}

extract() {
  local root=$1 file
  mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib,usr/lib64,etc,data,dev,proc,sys,run,root,tmp,var/tmp,var/lib,var/log}
  ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root/"
  while read -r file _; do
    [[ $file =~ $unneeded ]] || dpkg-deb -x "$debs/$file" "$root"
  done < <(tail -n +2 "$list")
}

strip_root() {
  local root=$1
  rm -rf "$root"/usr/share/{man,info,locale,lintian,bug,bash-completion,doc-base,debconf} \
    "$root"/usr/lib/systemd/{system,user} "$root"/usr/lib/tmpfiles.d "$root"/etc/{init.d,default,logrotate.d,cron.daily} \
    "$root"/var/cache/*
  # The licences stay.
  find "$root/usr/share/doc" -type f ! -name copyright -delete 2>/dev/null || true
  find "$root/usr/share/doc" -depth -type d -empty -delete 2>/dev/null || true
}

fill_root() {
  local root=$1 applet
  printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/false >"$root/etc/passwd"
  printf '%s\n' root:x:0: nogroup:x:65534: >"$root/etc/group"
  printf '%s\n' 'passwd: files' 'group: files' 'hosts: files dns' >"$root/etc/nsswitch.conf"
  chmod 1777 "$root/tmp" "$root/var/tmp"
  chmod 700 "$root/root"
  if [ -x "$root/usr/bin/busybox" ]; then
    for applet in $(chroot "$root" /usr/bin/busybox --list); do
      [ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
    done
  fi
  if [ ! -e "$root/usr/bin/sh" ] && [ -x "$root/usr/bin/dash" ]; then ln -s dash "$root/usr/bin/sh"; fi
}

if [ -d "$out" ] && [ "$(cat "$made" 2>/dev/null)" = "$wanted in $out" ]; then
  say "image root $name ready: $out"
  exit
fi
if [ -e "$out" ] && ! grep -qsxF -e "$out" "$home"/cache/roots/*.out; then
  fail "$out exists and was not made by this script" "remove it, or choose another directory"
fi

if ! have_all; then
  say "fetching the packages of image root $name: $*"
  list_closure "$@" && fetch "$@" || {
    # The mirror may have replaced what the lists name.
    in_base update >>"$log" || { tail -n 20 "$log" >&2; fail "apt-get update failed" "the whole log is $log"; }
    list_closure "$@" && fetch "$@" || { tail -n 20 "$log" >&2; fail "apt cannot fetch it" "the whole log is $log"; }
  }
  have_all || fail "apt has not fetched all archives" "the whole log is $log"
fi

marker=$home/cache/roots/$name.begin
touch "$marker"
rm -rf "$out.new"
mkdir -p "$out.new"
extract "$out.new"
strip_root "$out.new"
fill_root "$out.new"
find "$out.new" -newer "$marker" -exec touch -h -d "$epoch" {} +
rm -f "$marker" "$made"
printf '%s\n' "$out" >"$home/cache/roots/$name.out"
rm -rf "$out"
mv "$out.new" "$out"
printf '%s\n' "$wanted in $out" >"$made"
say "image root $name ready: $out"
