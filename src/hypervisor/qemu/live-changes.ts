/**
 * What of a running VM may change beside a protection, looked at cheaply: a handful of short queries, not the
 * whole comparison (running-machine.ts), which looks at firmware files and prints every device. Two looks are
 * compared by name.
 */
import { networkFindings } from "./live-output.ts";
import { type Qmp, QmpClosed } from "./qmp.ts";
import { driveFacts } from "./running-machine.ts";

/** QEMU tells at once of these that something may be another than it was. */
export const CHANGE_EVENTS = ["DEVICE_DELETED", "DEVICE_TRAY_MOVED"] as const;

export interface LiveLook {
  /** Type by name: of devices with an id, and of those without by their place in QEMU's list. */
  readonly devices: ReadonlyMap<string, string>;
  /** Size and kind of medium by device (GROUPS.drive). */
  readonly drives: ReadonlyMap<string, string>;
  /** Sentences: by which way frames would leave that nobody holds. */
  readonly leaks: readonly string[];
}

/**
 * @param cards how many network cards Remus has given the VM. Undefined: QEMU is gone, of which others tell
 */
export async function lookForChanges(qmp: Qmp, cards: number): Promise<LiveLook | undefined> {
  try {
    return await look(qmp, cards);
  } catch (error) {
    if (error instanceof QmpClosed) return undefined;
    throw error;
  }
}

async function look(qmp: Qmp, cards: number): Promise<LiveLook> {
  return {
    devices: new Map([
      ...(await children(qmp, "/machine/peripheral")),
      ...(await children(qmp, "/machine/peripheral-anon")),
    ]),
    drives: new Map(Object.entries(await driveFacts(qmp))),
    leaks: (await networkFindings(qmp, cards))
      .filter(({ severity }) => severity === "error")
      .map(({ message }) => message),
  };
}

/**
 * The first difference, a sentence without its full stop that names the thing; undefined: nothing has
 * changed.
 */
export function changeBetween(before: LiveLook, now: LiveLook): string | undefined {
  for (const [name, type] of before.devices)
    if (now.devices.get(name) !== type)
      return `device ${name} (${type}) was unplugged, and the standby has it still`;
  for (const [name, type] of now.devices)
    if (!before.devices.has(name))
      return `device ${name} (${type}) was plugged in, and the standby has not got it`;
  for (const [name, facts] of before.drives) {
    const other = now.drives.get(name) ?? "gone";
    if (other !== facts)
      return `${name} was "${facts}" and is "${other}" now, and the standby's is as before`;
  }
  const leak = now.leaks.find((text) => !before.leaks.includes(text));
  return leak?.replace(/\.$/, "");
}

async function children(qmp: Qmp, path: string): Promise<[string, string][]> {
  const list = await qmp.execute<{ name: string; type: string }[]>("qom-list", { path });
  return list.flatMap(({ name, type }) => {
    const [, device] = /^child<(.*)>$/.exec(type) ?? [];
    return device === undefined ? [] : [[name, device] as [string, string]];
  });
}
