# Sets Podman up on a host: runc as for the other peers, no systemd, everything in memory. podman-host.sh import|load
# The image is on standard input: a tar of its root, or what `podman save` wrote on another host, for both must call it
# by the same digest.
set -eu
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
mkdir -p /etc/containers /run/bench
cat >/etc/containers/containers.conf <<'C'
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
[containers]
log_driver = "none"
C
cat >/etc/containers/storage.conf <<'C'
[storage]
driver = "overlay"
graphroot = "/run/bench/storage"
runroot = "/run/bench/runroot"
C
if [ "$1" = import ]; then podman import -q - localhost/bench >&2; else podman load -q >&2; fi
