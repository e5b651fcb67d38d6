/** Which filters of ours a QEMU has at this instant, by their names. */
import type { Qmp } from "../hypervisor/qemu/qmp.ts";

export interface Chardev {
  readonly label: string;
  readonly filename: string;
}

/** Before a character device's name, which may be the name of a filter, too. */
export const CHARDEV = "chardev ";

/** Names of the objects that QEMU has, and of its character devices. */
export async function filtersOf(qmp: Qmp): Promise<ReadonlySet<string>> {
  const objects = await qmp.execute<{ name: string }[]>("qom-list", { path: "/objects" });
  const chardevs = await qmp.execute<Chardev[]>("query-chardev");
  return new Set([...objects.map(({ name }) => name), ...chardevs.map(({ label }) => CHARDEV + label)]);
}

/** Everything that a card may have of ours. */
export function namesOf(netdev: string): string[] {
  return ["sink", "capture", "inject"].flatMap((kind) => {
    const id = `remus-${kind}-${netdev}`;
    return [id, CHARDEV + id];
  });
}
