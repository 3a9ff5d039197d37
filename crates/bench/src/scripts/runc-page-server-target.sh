# runc's stop-and-copy with CRIU's page server, on the target.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
images=/run/bench/images work=/run/bench/work
criu page-server --address 0.0.0.0 --port 9001 -D $images -W $work -o page-server.log >&2 &
criu=$!
busybox nc -l -p 7000 -e /bin/tar -C $images -xf -
wait $criu
now received
runc restore -d --tcp-established --image-path $images --work-path $work --bundle /run/bench/bundle ct </dev/null >/dev/null 2>&1
now restored
echo 0 | ip netns exec ct tee /proc/sys/net/ipv4/conf/all/arp_ignore >/dev/null
ip netns exec ct busybox arping -q -U -c 1 -I eth0 10.77.0.50 || true
