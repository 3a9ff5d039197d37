#!/usr/bin/env bash
# Runs the tests that need a kernel with soft-dirty bits and without PAGEMAP_SCAN, in a virtual machine: Debian 12's 6.1,
# by QEMU without KVM, which works anywhere. The argument is the test program of drover-memory (`make test-vm` gives it).
#
# The kernel and a busybox are downloaded as Debian packages and only unpacked, under $DROVER_HOME/vm (default
# /var/lib/drover); QEMU is installed if it is missing. Idempotent; the first run needs the network.
set -euo pipefail

tests=${1:?the test program}
home=${DROVER_HOME:-/var/lib/drover}
vm=$home/vm
# Raise it when what is downloaded changes.
revision=2
# How long the machine may run, in seconds.
patience=180
say() { printf '%s\n' "drover: $*" >&2; }

[ "$(id -u)" = 0 ] || { say "cannot prepare the virtual machine: it needs root"; say "hint: run it with sudo"; exit 1; }

install_qemu() {
  command -v qemu-system-x86_64 >/dev/null && return
  say "installing Debian packages on this machine: qemu-system-x86"
  apt-get update -qq
  # What is there stays: another version of QEMU's tools may be somebody's.
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove qemu-system-x86 >/dev/null ||
    { say "cannot install qemu-system-x86"; say "hint: see what apt-get says; it must not remove other packages"; exit 1; }
  mkdir -p "$home"
  echo qemu-system-x86 >>"$home/machine-packages"
}

download() {
  [ "$(cat "$vm/.revision" 2>/dev/null)" = "$revision" ] && return
  say "downloading a kernel for the virtual machine into $vm (28 MB)"
  rm -rf "$vm.new"
  mkdir -p "$vm.new/root"
  (
    cd "$vm.new"
    apt-get update -qq
    kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && /linux-image/ { print $2; exit }')
    apt-get download -qq "${kernel:?no kernel is offered}" busybox-static 2>/dev/null
    for package in *.deb; do dpkg-deb -x "$package" root; done
    cp root/boot/vmlinuz-* kernel
    cp root/*bin/busybox busybox 2>/dev/null || cp root/usr/bin/busybox busybox
    rm -rf root ./*.deb
  )
  echo "$revision" >"$vm.new/.revision"
  rm -rf "$vm"
  mv "$vm.new" "$vm"
}

# A program with its libraries.
add() {
  local file
  for file in "$1" $(ldd "$1" | grep -oE '/[^ ]+'); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
}

install_qemu
download
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,proc,sys,tmp}
tests=$(readlink -f "$tests")
bash=$(readlink -f "$(command -v bash)")
add "$tests"
add "$bash"
cp "$vm/busybox" "$root/bin/busybox"
cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=$(dirname "$bash"):/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
echo "kernel \$(uname -r)"
$tests --ignored --nocapture --test-threads=1 soft_dirty
echo "drover: the tests ended with \$?"
poweroff -f
INIT
chmod 755 "$root/init"
(cd "$root" && find . | "$vm/busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/initramfs"
timeout "$patience" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1024 -nographic -no-reboot -net none \
  -kernel "$vm/kernel" -initrd "$work/initramfs" -append "console=ttyS0 quiet panic=-1" </dev/null 2>"$work/errors" |
  tr -d '\r' | tee "$work/output" || { cat "$work/errors" >&2; say "the virtual machine did not end in time"; exit 1; }
grep -q '^drover: the tests ended with 0$' "$work/output" || { say "the tests in the virtual machine failed"; exit 1; }
grep -qE '^test result: ok\. [1-9]' "$work/output" || { say "no test ran in the virtual machine"; exit 1; }
