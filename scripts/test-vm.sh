#!/usr/bin/env bash
# Runs the tests that need another kernel in a virtual machine: one with soft-dirty bits and without PAGEMAP_SCAN, and with a
# server and a client of NFS. It is Debian 12's 6.1, by QEMU without KVM, which works anywhere. The arguments are the test
# programs of drover-disk, drover-memory and drover-sys (`make test-vm` gives them).
#
# QEMU, with all that it depends on, the programs of NFS and the kernel are Debian packages that the apt of the base
# (install-base.sh) fetches. They are unpacked under $DROVER_HOME/cache (default /var/lib/drover) and installed nowhere: QEMU
# runs from there with its own libraries. Idempotent; the first run needs the network.
set -euo pipefail

disk=${1:?the test program of drover-disk}
memory=${2:?the test program of drover-memory}
sys=${3:?the test program of drover-sys}
home=${DROVER_HOME:-/var/lib/drover}
base=$home/base
vm=$home/cache/vm
qemu=$vm/qemu
nfs=$vm/nfs
log=$vm.log
# In the base: where its apt keeps what it knows of the other release, for as long as this runs.
lists=/var/cache/drover-vm
here=$(cd "$(dirname "$0")" && pwd)
mirror=${DROVER_DEBIAN_MIRROR:-http://deb.debian.org/debian}
# The release whose kernel it is. The stamp has the revision: raise it when something else is fetched.
release=bookworm revision=2
# The kernel's modules for NFS, each after those that it needs.
modules="sunrpc auth_rpcgss grace nfs_acl lockd netfs fscache dns_resolver nfs nfsv4 nfsd"
# How long the machine may run, in seconds.
patience=300
say() { printf '%s\n' "drover: $*" >&2; }
fail() {
  say "cannot run tests in a virtual machine: $1"
  [ $# -lt 2 ] || say "hint: $2"
  exit 1
}

[ "$(id -u)" = 0 ] || fail "it needs root" "run it with sudo"
[ -x "$base/usr/bin/apt-get" ] || fail "there is no base in $base" "run scripts/install-base.sh"

# The base's apt, which sees another release and believes that nothing is installed. What it downloads goes to `lists`.
in_release() {
  local command=$1
  shift
  chroot "$base" /bin/sh -c 'cd "$0" && exec "$@"' "$lists" "$command" -q \
    -o Dir::Etc::sourcelist="$lists/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$lists/lists" -o Dir::State::status=/dev/null \
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root "$@"
}

fetch_kernel() {
  local kernel module
  say "fetching the kernel of $release for the virtual machine (26 MB)"
  rm -rf "$base$lists" "$vm/kernel.new"
  mkdir -p "$base$lists/lists/partial" "$vm/kernel.new"
  echo "deb $mirror $release main" >"$base$lists/sources.list"
  in_release apt-get update >>"$log" 2>&1 || return 1
  # The newest one of the release.
  kernel=$(in_release apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
  # What apt fetches it checks against the signed lists.
  in_release apt-get download "${kernel:?no kernel is offered}" >>"$log" 2>&1 || return 1
  dpkg-deb -x "$base$lists/$kernel"_*.deb "$vm/kernel.new" || return 1
  mv "$vm/kernel.new"/boot/vmlinuz-* "$vm/vmlinuz"
  mkdir -p "$vm/modules"
  for module in $modules; do
    find "$vm/kernel.new/lib/modules" -name "$module.ko" -exec mv -t "$vm/modules" {} + || return 1
    [ -s "$vm/modules/$module.ko" ] || { echo "the kernel has no module $module" >>"$log"; return 1; }
  done
  rm -rf "$vm/kernel.new"
  printf '%s\n' "$release $revision" >"$vm/.kernel"
}

# A program with its libraries.
add() {
  local file
  for file in "$1" $(ldd "$1" | grep -oE '/[^ ]+'); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
}

# A root with the programs of NFS. The test program that uses them runs in it by its own loader and libraries, for those
# of the root may be older.
add_nfs() {
  local inside=$root/nfs
  cp -a "$nfs" "$inside"
  mkdir -p "$inside"/{host,modules,srv/data,srv/other,var/lib/nfs/v4recovery,proc,sys,dev,tmp}
  cp "$vm"/modules/*.ko "$inside/modules"
  cp "$disk" "$inside/host/disk"
  ldd "$disk" | grep -oE '/[^ ]+' | xargs cp -L -t "$inside/host"
  touch "$inside"/var/lib/nfs/{etab,rmtab}
  ln -sfn /proc/self/mounts "$inside/etc/mtab"
  printf '127.0.0.1 localhost\n' >"$inside/etc/hosts"
  printf 'tcp 6 TCP\nudp 17 UDP\n' >"$inside/etc/protocols"
  printf '%s\n' 'udp tpi_clts v inet udp - -' 'tcp tpi_cots_ord v inet tcp - -' >"$inside/etc/netconfig"
  printf '/srv/%s 127.0.0.1(rw,fsid=%s,no_root_squash,insecure,no_subtree_check)\n' data 1 other 2 >"$inside/etc/exports"
}

make_root() {
  mkdir -p "$root"/{bin,dev,proc,sys,tmp}
  add "$memory"
  add "$sys"
  add "$bash"
  add_nfs
  cp "$qemu/usr/bin/busybox" "$root/bin/busybox"
  cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=$(dirname "$bash"):/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
echo "kernel \$(uname -r)"
run() { "\$@" --include-ignored --nocapture --test-threads=1; echo "drover: tests ended with \$?"; }
run $memory soft_dirty the_backend_that_is_chosen_works the_page_map_knows_what_a_scan_finds
run $sys softdirty:: probe:: reads_its_page_map
for module in $modules; do insmod /nfs/modules/\$module.ko; done
ip link set lo up
for at in proc sys dev; do mount --bind /\$at /nfs/\$at; done
for at in tmp srv/data srv/other; do mount -t tmpfs tmp /nfs/\$at; done
mount -t cgroup2 cgroup /nfs/sys/fs/cgroup
mount -t nfsd nfsd /proc/fs/nfsd
mount --bind /proc/fs/nfsd /nfs/proc/fs/nfsd
in_nfs() { PATH=/usr/sbin:/usr/bin chroot /nfs "\$@"; }
in_nfs exportfs -a
in_nfs rpc.mountd --no-nfs-version 3
in_nfs rpc.nfsd -N 3 -V 4.2 --lease-time 10 --grace-time 10 2
# Nobody has anything to claim again.
echo Y >/proc/fs/nfsd/v4_end_grace
run in_nfs /host/$(basename "$loader") --library-path /host /host/disk nfs_tests::
poweroff -f
INIT
  chmod 755 "$root/init"
}

# Sets `machine`.
start_machine() {
  # By its own loader and libraries: those of this machine may be older or newer.
  QEMU_MODULE_DIR=$(echo "$qemu"/usr/lib/*/qemu) timeout -k 5 "$patience" "$qemu/usr/lib64/ld-linux-x86-64.so.2" \
    --library-path "$(echo "$qemu"/usr/lib/*-linux-gnu)" "$qemu/usr/bin/qemu-system-x86_64" \
    -L "$qemu/usr/share/qemu" -L "$qemu/usr/share/seabios" \
    -accel tcg,thread=multi -cpu max -smp 2 -m 1024 -nodefaults -display none -no-reboot -serial stdio \
    -kernel "$vm/vmlinuz" -initrd "$work/initramfs" -append "console=ttyS0 quiet panic=-1" \
    </dev/null >"$work/output" 2>"$work/errors" &
  machine=$!
}

# Whoever is told to end tells the machine, and leaves nothing.
machine=
work=$(mktemp -d)
trap '[ -z "$machine" ] || kill "$machine" 2>/dev/null || true; wait; rm -rf "$work" "$base$lists"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$vm"
"$here/image-root.sh" qemu "$qemu" qemu-system-x86 busybox-static
"$here/image-root.sh" nfs "$nfs" nfs-kernel-server nfs-common mount
if [ "$(cat "$vm/.kernel" 2>/dev/null)" != "$release $revision" ]; then
  : >"$log"
  fetch_kernel || { tail -n 20 "$log" >&2; fail "apt cannot fetch the kernel" "the whole log is $log"; }
fi

root=$work/root
disk=$(readlink -f "$disk") memory=$(readlink -f "$memory") sys=$(readlink -f "$sys") bash=$(readlink -f "$(command -v bash)")
loader=$(ldd "$disk" | grep -oE '/[^ ]*/ld-linux[^ ]*')
make_root
: >"$work/output"
(cd "$root" && find . | "$qemu/usr/bin/busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/initramfs"
start_machine
# It ends by itself when the machine does.
tail -n +1 -f -s 0.2 --pid="$machine" "$work/output" | tr -d '\r' &
shown=$!
wait "$machine" || { cat "$work/errors" >&2; fail "the machine failed, or did not end within $patience seconds"; }
machine=
wait "$shown"
ended=$(tr -d '\r' <"$work/output")
[ "$(grep -c '^drover: tests ended with 0$' <<<"$ended")" = 3 ] || fail "tests failed"
[ "$(grep -cE '^test result: ok\. [1-9]' <<<"$ended")" = 3 ] || fail "a program ran no tests"
