# runc's stop-and-copy, on the target: receive, restore, announce.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
images=/run/bench/images work=/run/bench/work
# The program has the socket itself: no relay copies the bytes once more.
busybox nc -l -p 7000 -e /bin/tar -C $images --blocking-factor=512 -xf -
now received
runc restore -d --tcp-established --image-path $images --work-path $work --bundle /run/bench/bundle ct </dev/null >/dev/null 2>&1
now restored
echo 0 | ip netns exec ct tee /proc/sys/net/ipv4/conf/all/arp_ignore >/dev/null
ip netns exec ct busybox arping -q -U -c 1 -I eth0 10.77.0.50 || true
