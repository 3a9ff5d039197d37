#!/usr/bin/env bash
# Makes the roots of the zoo's containers from Debian packages, and that of its clients:
#   zoo-images.sh [NAME...]
# They lie under $DROVER_HOME/cache/images (default /var/lib/drover) as zoo-NAME. Packages' own scripts never run: what
# they would do (users, keys, empty databases) is done here. Idempotent; the first run needs the network.
set -euo pipefail

home=${DROVER_HOME:-/var/lib/drover}
images=$home/cache/images
here=$(cd "$(dirname "$0")" && pwd)
inside=$here/../zoo/inside
# The time of all files that come from no package, as in image-root.sh.
epoch=@1751328000
path=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { printf '%s\n' "drover: $*" >&2; }

# Sets root and makes it: NAME PACKAGE...
make_root() {
  root=$images/zoo-$1
  "$here/image-root.sh" "zoo-$1" "$root" "${@:2}" coreutils dash libc-bin
  mkdir -p "$root/zoo"
  cp "$inside"/* "$root/zoo/"
  chmod 755 "$root"/zoo/*
}

# A user whom a server wants to be: NAME ID HOME
user() {
  grep -q "^$1:" "$root/etc/passwd" || {
    echo "$1:x:$2:$2:$1:$3:/bin/sh" >>"$root/etc/passwd"
    echo "$1:x:$2:" >>"$root/etc/group"
  }
}

# The image's configuration; the same content has the same time, so that the tree stays the same: PROGRAM to try...
finish() {
  cat >"$root/drover-image.json" <<JSON
{ "Entrypoint": [], "Cmd": ["sh"], "Env": ["$path", "LANG=C.UTF-8"], "WorkingDir": "/", "User": "" }
JSON
  find "$root" -newermt "$epoch" -exec touch -h -d "$epoch" {} +
  chroot "$root" "$@" >/dev/null || { say "cannot use image $root: $1 does not run in it"; exit 1; }
  say "image ready: $root"
}

# Lines that a client can tell the right ones of: 1, 2, ... to 2,000,000 (14 MiB).
numbers() { mkdir -p "$root/srv"; seq 1 2000000 >"$root/srv/numbers"; }

make_client() {
  make_root client python3 python3-websockets sysbench mariadb-client postgresql-17 postgresql-client-17 openssh-client \
    bash libc-bin
  cp -f "$home/cache/zoo-key" "$root/root/key" && chmod 600 "$root/root/key"
  finish /usr/bin/python3 -c 'import websockets'
}

make_python() {
  make_root python python3 python3-numpy python3-websockets bash xz-utils sysbench stress-ng entr procps
  # Alternatives that a package's script would have chosen.
  local libraries=$root/usr/lib/x86_64-linux-gnu
  ln -sf blas/libblas.so.3 "$libraries/libblas.so.3"
  ln -sf lapack/liblapack.so.3 "$libraries/liblapack.so.3"
  finish /usr/bin/python3 -c 'import numpy, sqlite3, ctypes, websockets'
}

make_memcached() { make_root memcached memcached; user memcache 120 /; finish /usr/bin/memcached --version; }

make_postgres() {
  make_root postgres postgresql-17
  user postgres 26 /data
  mkdir -p "$root/run/postgresql"
  chown 26:26 "$root/data" "$root/run/postgresql"
  chmod 700 "$root/data"
  finish /usr/lib/postgresql/17/bin/postgres --version
}

make_mariadb() {
  make_root mariadb mariadb-server grep sed
  user mysql 121 /data
  mkdir -p "$root/run/mysqld"
  chown 121:121 "$root/data" "$root/run/mysqld"
  finish /usr/sbin/mariadbd --version
}

make_nginx() {
  make_root nginx nginx-light
  user www-data 33 /srv
  numbers
  mkdir -p "$root/var/lib/nginx" "$root/var/log/nginx"
  cat >"$root/etc/nginx/zoo.conf" <<'CONF'
worker_processes 2;
daemon off;
error_log stderr;
events {}
http {
  access_log off;
  keepalive_requests 1000000;
  server {
    listen 80;
    listen [::]:80;
    root /srv;
    location /slow { alias /srv/numbers; limit_rate 256k; }
  }
}
CONF
  finish /usr/sbin/nginx -v
}

make_apache() {
  make_root apache apache2
  user www-data 33 /srv
  numbers
  mkdir -p "$root/var/run/apache2" "$root/var/log/apache2" "$root/var/lock/apache2"
  local modules=/usr/lib/apache2/modules
  cat >"$root/etc/apache2/zoo.conf" <<CONF
ServerRoot /etc/apache2
ServerName zoo
PidFile /run/apache2.pid
Listen 80
LoadModule mpm_event_module $modules/mod_mpm_event.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule ratelimit_module $modules/mod_ratelimit.so
LoadModule env_module $modules/mod_env.so
LoadModule alias_module $modules/mod_alias.so
User www-data
Group www-data
ErrorLog /dev/stderr
DocumentRoot /srv
MaxKeepAliveRequests 0
KeepAliveTimeout 60
<Directory /srv>
  Require all granted
</Directory>
Alias /slow /srv/numbers
<Location /slow>
  SetOutputFilter RATE_LIMIT
  SetEnv rate-limit 256
</Location>
CONF
  finish /usr/sbin/apache2 -v
}

make_node() { make_root node nodejs; finish /usr/bin/node --version; }

make_java() {
  make_root java openjdk-21-jdk-headless
  mkdir -p "$root/zoo/classes"
  # Java finds its own libraries through /proc.
  in_root='mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
  unshare -m bash -c "$in_root" "$root" /usr/lib/jvm/java-21-openjdk-amd64/bin/javac -d /zoo/classes /zoo/Threads.java
  finish /bin/sh -c 'ls /zoo/classes/Threads.class'
}

make_mosquitto() {
  make_root mosquitto mosquitto grep
  user mosquitto 122 /
  printf '%s\n' 'listener 1883' 'allow_anonymous true' 'persistence false' 'log_dest stderr' 'user root' \
    >"$root/etc/mosquitto/zoo.conf"
  finish /bin/sh -c "/usr/sbin/mosquitto -h | grep -q MQTT"
}

# The zoo's own key: it opens nothing else than these containers.
key() {
  [ ! -e "$home/cache/zoo-key.pub" ] || return 0
  local made=$home/base/tmp/zoo-key
  chroot "$home/base" ssh-keygen -q -t ed25519 -N '' -C zoo -f /tmp/zoo-key
  mv "$made" "$made.pub" "$home/cache/"
}

make_ssh() {
  make_root ssh openssh-server bash grep
  user sshd 123 /run/sshd
  mkdir -p "$root/run/sshd" "$root/root/.ssh" "$root/etc/ssh"
  chmod 700 "$root/root/.ssh"
  cp "$home/cache/zoo-key.pub" "$root/root/.ssh/authorized_keys"
  chmod 600 "$root/root/.ssh/authorized_keys"
  [ -e "$root/etc/ssh/zoo_host" ] || { cp "$home/cache/zoo-key" "$root/etc/ssh/zoo_host"; chmod 600 "$root/etc/ssh/zoo_host"; }
  sed -i 's,^\(root:.*\):/bin/sh$,\1:/bin/bash,' "$root/etc/passwd"
  printf '%s\n' 'HostKey /etc/ssh/zoo_host' 'PermitRootLogin yes' 'UsePAM no' 'Port 22' 'StrictModes no' >"$root/etc/ssh/zoo.conf"
  finish /bin/sh -c "test -x /usr/sbin/sshd"
}

# Several services under a real init: runit, with cron, syslog and a web server.
make_system() {
  make_root system runit cron rsyslog nginx-light python3 bash bsdutils procps
  user www-data 33 /srv
  numbers
  mkdir -p "$root/var/lib/nginx" "$root/var/log/nginx" "$root/etc/zoo-services" "$root/var/spool/cron/crontabs" "$root/var/spool/rsyslog"
  sed -e 's/listen \[::\]:80;//' "$images/zoo-nginx/etc/nginx/zoo.conf" >"$root/etc/nginx/zoo.conf"
  printf '%s\n' 'module(load="imuxsock")' '*.* /var/log/syslog' >"$root/etc/rsyslog-zoo.conf"
  local service
  for service in 'nginx exec nginx -c /etc/nginx/zoo.conf' 'cron exec cron -f' \
    'rsyslog exec rsyslogd -n -f /etc/rsyslog-zoo.conf -i NONE' 'ticker exec python3 /zoo/ticker.py'; do
    mkdir -p "$root/etc/zoo-services/${service%% *}"
    printf '#!/bin/sh\n%s\n' "${service#* }" >"$root/etc/zoo-services/${service%% *}/run"
    chmod 755 "$root/etc/zoo-services/${service%% *}/run"
  done
  echo '* * * * * logger -t zoo-cron minute' >"$root/var/spool/cron/crontabs/root"
  chmod 600 "$root/var/spool/cron/crontabs/root"
  finish /usr/sbin/nginx -v
}

all=(python client memcached postgres mariadb nginx apache node java mosquitto ssh system)
mkdir -p "$images"
key
[ $# -gt 0 ] || set -- "${all[@]}"
for name; do
  declare -F "make_$name" >/dev/null || { say "there is no image zoo-$name: ${all[*]}"; exit 2; }
  "make_$name"
done
