# runc's lazy migration, on the target: receive all but memory, restore, and fetch pages as they are wanted.
set -eu
now() { printf '%s %s\n' "$1" "${EPOCHREALTIME/./}"; }
images=/run/bench/images work=/run/bench/work
busybox nc -l -p 7000 -e /bin/tar -C $images -xf -
now received
cd $work
criu lazy-pages --page-server --address $SOURCE --port 9000 -D $images -W $work -o lazy.log >&2 &
criu=$!
for _ in {1..500}; do
  [ ! -S lazy-pages.socket ] || break
  sleep 0.002
done
runc restore -d --lazy-pages --tcp-established --image-path $images --work-path $work --bundle /run/bench/bundle ct \
  </dev/null >/dev/null 2>&1
now restored
echo 0 | ip netns exec ct tee /proc/sys/net/ipv4/conf/all/arp_ignore >/dev/null
ip netns exec ct busybox arping -q -U -c 1 -I eth0 10.77.0.50 || true
wait $criu
now filled
