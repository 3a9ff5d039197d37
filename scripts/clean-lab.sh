#!/usr/bin/env bash
# Removes every trace of labs: the labs themselves, and the base, the images, the downloaded packages and the tools under
# $DROVER_HOME (default /var/lib/drover). What a real agent keeps there stays.
# The Debian packages that install-base.sh installed on this machine stay, unless PURGE=1.
set -euo pipefail

home=${DROVER_HOME:-/var/lib/drover}
here=$(cd "$(dirname "$0")" && pwd)
drover=${DROVER:-$here/../target/release/drover}
record=$home/machine-packages
say() { printf '%s\n' "drover: $*" >&2; }
fail() {
  say "cannot clean up: $1"
  [ $# -lt 2 ] || say "hint: $2"
  exit 1
}

[ "$(id -u)" = 0 ] || fail "it needs root" "run it with sudo"
case $home in /?*) ;; *) fail "DROVER_HOME must be an absolute path" ;; esac

# The names of all labs; the one that has no name is called "lab".
labs() {
  local path name
  for path in /run/drover-lab* "$home"/lab*; do
    [ -d "$path" ] || continue
    name=${path##*/}
    name=${name#drover-}
    printf '%s\n' "${name#lab-}"
  done | sort -u
}

for lab in $(labs); do
  [ -x "$drover" ] || fail "lab $lab has to be taken down, and there is no $drover" "run: make build"
  say "taking down lab $lab"
  DROVER_LAB=$lab "$drover" lab down >/dev/null || fail "lab $lab does not go down"
done

# Nothing may be mounted where rm goes.
mounted=$(awk -v home="$home/" 'index($5, home) == 1 { print $5 }' /proc/self/mountinfo)
[ -z "$mounted" ] || fail "these are still mounted: $mounted"
packages=$(sort -u "$record" 2>/dev/null | tr '\n' ' ' || true)
rm -rf --one-file-system "$home"/{base,base.new,base.log,peers-base,peers-base.new,peers-base.log,cache,tools,machine-packages}
rmdir "$home" 2>/dev/null || true
if [ -d "$home" ]; then say "left in $home, for it is not of a lab: $(ls -A "$home" | tr '\n' ' ')"; fi

if [ -n "$packages" ] && [ "${PURGE:-}" = 1 ]; then
  say "removing the Debian packages that were installed for the lab: $packages"
  # shellcheck disable=SC2086 # one word for each package
  DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq $packages >/dev/null
elif [ -n "$packages" ]; then
  say "these Debian packages were installed for the lab and stay: $packages"
  say "hint: apt-get purge $packages"
fi
say "every trace of labs is gone"
