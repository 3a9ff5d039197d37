# Serves the copies below /var/lib/drover/bench/copy by rsync's own protocol, if it is not served yet.
set -eu
[ ! -e /run/bench.rsyncd.pid ] || exit 0
mkdir -p /var/lib/drover/bench/copy/{blocks,files}/tree
cat >/run/bench.rsyncd.conf <<'CONF'
pid file = /run/bench.rsyncd.pid
use chroot = no
uid = 0
gid = 0
[bench]
path = /var/lib/drover/bench/copy
read only = no
CONF
rsync --daemon --config=/run/bench.rsyncd.conf
for _ in $(seq 100); do
  ss -Htln | grep -q ':873 ' && exit 0
  sleep 0.05
done
exit 1
