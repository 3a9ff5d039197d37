# Starts the container under Podman, in the namespace that wire.sh has made.
set -eu
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
# conmon in a group of its own would stay behind.
exec podman run -d --name ct --network ns:/run/netns/ct --cgroups=no-conmon localhost/bench \
  redis-server --save '' --appendonly no --protected-mode no --bind '*' --logfile /dev/null
