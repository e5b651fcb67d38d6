/** QEMU's own account of its devices, `info qtree`, read. */

export interface DeviceNode {
  readonly type: string;
  /** Empty for a device that was given none. */
  readonly id: string;
  /** Where it sits: the bus, by its name, and on a PCI bus its slot and function. */
  readonly place: string;
  /** As QEMU prints them: texts in quotes, numbers with their hexadecimal form. */
  readonly properties: ReadonlyMap<string, string>;
}

/**
 * Reads `info qtree`. Buses are told by name: their numbers on a PCI bus are given by the guest's firmware,
 * which has not run in a standby.
 */
export function parseDeviceTree(text: string): DeviceNode[] {
  const found: (DeviceNode & { readonly properties: Map<string, string> })[] = [];
  const buses: { readonly indent: number; readonly name: string }[] = [];
  let device: { readonly indent: number; readonly properties: Map<string, string> } | undefined;
  for (const line of text.split(/\r?\n/)) {
    const indent = line.length - line.trimStart().length;
    const bus = /^\s*bus: (\S+)/.exec(line);
    const dev = /^\s*dev: ([^,]+), id "(.*)"/.exec(line);
    if (bus !== null) {
      while (buses.length > 0 && buses.at(-1)!.indent >= indent) buses.pop();
      buses.push({ indent, name: bus[1]! });
      device = undefined;
    } else if (dev !== null) {
      while (buses.length > 0 && buses.at(-1)!.indent >= indent) buses.pop();
      const properties = new Map<string, string>();
      device = { indent, properties };
      found.push({ type: dev[1]!, id: dev[2]!, place: buses.at(-1)?.name ?? "", properties });
    } else if (device !== undefined) {
      const property = /^\s*(\S+) = (.*)$/.exec(line);
      if (property !== null) device.properties.set(property[1]!, property[2]!);
    }
  }
  return found.map((node) => {
    const slot = node.properties.get("addr");
    return slot === undefined ? node : { ...node, place: `${node.place} ${slot}` };
  });
}

/** Names a device for people and for comparison. */
export function deviceName({ id, place, type }: Pick<DeviceNode, "id" | "place" | "type">): string {
  return [type, id === "" ? "" : ` "${id}"`, place === "" ? "" : ` on ${place}`].join("");
}

/** The value of a property that is a text. */
export function textProperty(node: DeviceNode, name: string): string {
  return /^"(.*)"$/.exec(node.properties.get(name) ?? "")?.[1] ?? "";
}
