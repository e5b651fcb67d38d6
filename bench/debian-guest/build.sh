#!/bin/sh
# build.sh TARGET MIRROR IMAGE_MIB: a whole Debian 12 with systemd and PostgreSQL 15 as an ext4 image TARGET, with pgbench's tables in it. To be run in a mount
# namespace of its own (unshare --mount --propagation private), so that nothing stays mounted.
set -eu
target=$1 mirror=$2 mebibytes=$3
tree=$target.tree
rm -rf "$tree"
trap 'rm -rf "$tree"' EXIT
debootstrap --variant=minbase --include=systemd,systemd-sysv,iproute2,udev,dbus bookworm "$tree" "$mirror"
mount -t proc proc "$tree/proc"
mount -t tmpfs tmpfs "$tree/run"
# No service starts while its package is installed.
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod +x "$tree/usr/sbin/policy-rc.d"
chroot "$tree" sh -ec '
  export DEBIAN_FRONTEND=noninteractive LC_ALL=C
  apt-get -qq update
  apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install postgresql-15 postgresql-client-15
  apt-get clean'
rm "$tree/usr/sbin/policy-rc.d"

conf=$tree/etc/postgresql/15/main
printf "listen_addresses = '*'\njit = off\n" >"$conf/conf.d/remus.conf"
# The lab's network is a namespace with one client in it.
printf 'host all all 10.77.0.0/24 trust\n' >>"$conf/pg_hba.conf"
sed -i 's/^local\(.*\)peer$/local\1trust/' "$conf/pg_hba.conf"
chroot "$tree" sh -ec '
  mkdir -p /run/postgresql && chown postgres: /run/postgresql
  pg_ctlcluster 15 main start
  trap "pg_ctlcluster 15 main stop -m fast" EXIT
  createdb -U postgres bench
  pgbench -U postgres -i -q -s 1 bench'

echo remus-guest >"$tree/etc/hostname"
echo '/dev/vda / ext4 noatime 0 1' >"$tree/etc/fstab"
cat >"$tree/etc/systemd/system/remus-network.service" <<'X'
[Unit]
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip link set eth0 up; ip addr add 10.77.0.10/24 dev eth0'
[Install]
WantedBy=multi-user.target
X
cat >"$tree/etc/systemd/system/remus-ready.service" <<'X'
[Unit]
After=postgresql@15-main.service remus-network.service
[Service]
Type=oneshot
ExecStart=/bin/sh -ec 'until pg_isready -q; do sleep 0.2; done; echo REMUS-GUEST-READY >/dev/ttyS0'
[Install]
WantedBy=multi-user.target
X
chroot "$tree" systemctl -q enable remus-network remus-ready
# What wakes by itself, or waits for people, has nothing to do here.
chroot "$tree" systemctl -q mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \
  e2scrub_all.timer fstrim.timer systemd-timesyncd.service

umount "$tree/run" "$tree/proc"
rm -f "$target.new"
truncate -s "${mebibytes}M" "$target.new"
mkfs.ext4 -q -F -m 0 -d "$tree" "$target.new"
mv "$target.new" "$target"
