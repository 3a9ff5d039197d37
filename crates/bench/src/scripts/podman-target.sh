# Podman's checkpoint and restore, on the target: it reads the archive twice, so that it has to be a file.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
busybox nc -l -p 7000 >/run/bench/archive </dev/null
now received
podman container restore --import /run/bench/archive --tcp-established >&2
now restored
echo 0 | ip netns exec ct tee /proc/sys/net/ipv4/conf/all/arp_ignore >/dev/null
ip netns exec ct busybox arping -q -U -c 1 -I eth0 10.77.0.50 || true
rm -f /run/bench/archive
