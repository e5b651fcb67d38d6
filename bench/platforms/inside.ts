/**
 * How a command is run in another root: in a mount and a process namespace of its own. What is mounted there
 * is gone with the last of its processes, and those end with the first, whatever happens to us: so nothing
 * needs to be unmounted, also after Ctrl-C or a SIGKILL.
 */
import { existsSync } from "node:fs";

const script = `set -e
root=$1; network=$2; directory=$3; shift 3
# A root must be a mount of its own, or mount namespaces cannot be made in it.
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/run"
if [ "$network" = yes ]; then
  mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
  bundle=/etc/ssl/certs/ca-certificates.crt
  [ ! -e $bundle ] || [ ! -e "$root$bundle" ] || mount --bind $bundle "$root$bundle"
else
  ip link set lo up
fi
# Not chroot alone: the root of the mount namespace would be outside, and paths in /proc would be told from there.
mkdir -p "$root/.outside"
cd "$root"
pivot_root . .outside
exec chroot . sh -c 'umount -l /.outside && rmdir /.outside && cd "$1" && shift && exec "$@"' sh "$directory" "$@"`;

export interface InsideOptions {
  /**
   * This machine's network, to fetch packages; without it there is none but the loopback, and what the lab
   * makes.
   */
  readonly network?: boolean;
  /** Where the command runs, seen from in there. */
  readonly directory?: string;
}

/** The words that run `words` with `root` as its root directory. They need root's rights. */
export function inside(root: string, words: readonly string[], options: InsideOptions = {}): string[] {
  const { directory = "/", network = false } = options;
  const namespaces = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"];
  return [
    "unshare",
    ...namespaces,
    ...(network ? [] : ["--net"]),
    ...["sh", "-c", script, "sh", root, network ? "yes" : "no", directory],
    ...["env", "-i", ...environment(), ...words],
  ];
}

/** A new user's, and what this machine needs for its network. */
function environment(): string[] {
  const taken = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
  const bundle = "/etc/ssl/certs/ca-certificates.crt";
  return [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C",
    "TERM=dumb",
    ...(existsSync(bundle) ? [`NODE_EXTRA_CA_CERTS=${bundle}`] : []),
    ...taken.flatMap((name) => (process.env[name] === undefined ? [] : [`${name}=${process.env[name]}`])),
  ];
}
