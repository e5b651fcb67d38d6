/** Preflight on a running QEMU, over QMP and /proc, just before protection starts. Touches nothing. */
import { readdir, readFile, readlink } from "node:fs/promises";
import { hasColo } from "./colo-support.ts";
import { asksForDirtyRing } from "./extra-args.ts";
import { endFindings, networkFindings } from "./live-output.ts";
import type { Qmp } from "./qmp.ts";
import { error, type Finding, parseQemuVersion, qemuTraps } from "./traps.ts";

/** With one of these the stream has another form, or leaves RAM out. The capture speaks the plain one. */
const forbidden = new Set([
  ...["xbzrle", "compress", "multifd", "postcopy-ram", "dirty-bitmaps", "background-snapshot", "mapped-ram"],
  ...["x-ignore-shared", "zero-copy-send", "block", "postcopy-preempt", "validate-uuid"],
]);
/**
 * Made for a migration that ends: the VM would wait for a word that nobody says, or its vCPUs stay throttled
 * for good.
 */
const endless = new Set(["pause-before-switchover", "switchover-ack", "auto-converge", "dirty-limit"]);
const idle = new Set([undefined, "none", "completed", "failed", "cancelled"]);

/**
 * @param pid QEMU's process, to see which devices it has open
 * @param cards how many network cards Remus has given it
 */
export async function livePreflight(qmp: Qmp, pid: number, cards: number): Promise<Finding[]> {
  return [
    ...(await versionFindings(qmp, pid)),
    ...(await coloFindings(qmp)),
    ...(await migrationFindings(qmp)),
    ...(await runStateFindings(qmp)),
    ...(await deviceFindings(pid)),
    ...(await networkFindings(qmp, cards)),
    ...(await endFindings(qmp)),
    ...(await diskFindings(qmp)),
  ];
}

async function versionFindings(qmp: Qmp, pid: number): Promise<Finding[]> {
  const version = parseQemuVersion(qmp.version);
  if (version === undefined) return [];
  const { enabled } = await qmp.execute<{ enabled: boolean }>("query-kvm");
  const [, ...args] = await list(`/proc/${pid}/cmdline`);
  const preloaded = (await list(`/proc/${pid}/environ`)).some((entry) =>
    /^LD_PRELOAD=.*cond-wait/.test(entry),
  );
  return qemuTraps(version, enabled ? "kvm" : "tcg", {
    dirtyRing: asksForDirtyRing(args),
    library: preloaded,
  });
}

/** A file of zero-terminated texts in /proc. */
async function list(path: string): Promise<string[]> {
  return (await readFile(path, "utf8")).split("\0");
}

async function coloFindings(qmp: Qmp): Promise<Finding[]> {
  if (await hasColo(qmp)) return [];
  const text = `QEMU ${qmp.version} was built without COLO (configure's --disable-replication, as in the RHEL family and KubeVirt), by which Remus takes checkpoints.`;
  return [
    error(
      "no-colo",
      `${text} Use one built with it, as those of Debian, Ubuntu, Proxmox, SUSE and Fedora are.`,
    ),
  ];
}

async function migrationFindings(qmp: Qmp): Promise<Finding[]> {
  type Capability = { capability: string; state: boolean };
  const found: Finding[] = [];
  const capabilities = await qmp.execute<Capability[]>("query-migrate-capabilities");
  for (const { capability } of capabilities.filter(({ state }) => state)) {
    if (!forbidden.has(capability) && !endless.has(capability)) continue;
    const why = forbidden.has(capability)
      ? "Remus cannot read such a stream"
      : "with it the VM would stand still, or be slowed down for as long as it is protected";
    const todo = `Turn it off: migrate_set_capability ${capability} off.`;
    const text = `Migration capability ${capability} is on, and ${why}. ${todo}`;
    found.push(error("migration-capability", text));
  }
  const migration = await qmp.execute<{ status?: string; "blocked-reasons"?: string[] }>("query-migrate");
  for (const reason of migration["blocked-reasons"] ?? [])
    found.push(
      error("blocked", `QEMU cannot hand this VM on: ${reason.replace(/\.$/, "")}. Remove what blocks it.`),
    );
  if (!idle.has(migration.status)) {
    const text = `Another migration of this VM is under way (${migration.status}). Wait for its end, or end it.`;
    found.push(error("migrating", text));
  }
  return found;
}

/**
 * A checkpoint of a VM in io-error, internal-error or guest-panicked aborts QEMU; a paused one would be
 * started.
 */
async function runStateFindings(qmp: Qmp): Promise<Finding[]> {
  const { status } = await qmp.execute<{ status: string }>("query-status");
  if (status === "running") return [];
  const text = `The VM is not running but ${status}, and only a running one can be protected. Mend or start it first.`;
  return [error("not-running", text)];
}

async function deviceFindings(pid: number): Promise<Finding[]> {
  const directory = `/proc/${pid}/fd`;
  const targets = await Promise.all(
    (await readdir(directory)).map((fd) => readlink(`${directory}/${fd}`).catch(() => "")),
  );
  return [...new Set(targets)].flatMap((target) => {
    if (target.startsWith("/dev/vfio/"))
      return [
        error("vfio", `QEMU has a real device open (${target}); its state cannot be copied. Take it out.`),
      ];
    if (target.startsWith("/dev/vhost"))
      return [
        error(
          "vhost",
          `QEMU uses vhost (${target}), which moves data past the place where Remus holds it. Start it with vhost=off.`,
        ),
      ];
    return [];
  });
}

/** The nodes of `vm.disks` are called `disk0` and so on (disk-nodes.ts). */
async function diskFindings(qmp: Qmp): Promise<Finding[]> {
  interface Drive {
    readonly device: string;
    readonly qdev?: string;
    readonly inserted?: { readonly ro: boolean; readonly file: string; readonly "node-name"?: string };
  }
  const drives = await qmp.execute<Drive[]>("query-block");
  return drives.flatMap(({ device, qdev, inserted }) =>
    inserted === undefined || inserted.ro || /^disk\d+(-top)?$/.test(inserted["node-name"] ?? "")
      ? []
      : [
          error(
            "unprotected-disk",
            `Disk ${device || qdev} (${inserted.file}) can be written, and is not in vm.disks, so Remus does not copy it. Put it there, or make it read-only.`,
          ),
        ],
  );
}
