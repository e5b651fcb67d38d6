/** Disks that extra arguments bring: nobody may write them, for Remus does not copy them. */
import { type Argument, isOn } from "./arguments.ts";
import { refused } from "./extra-rules.ts";
import type { Finding } from "./traps.ts";

/** Without a file it is an empty tray, and a CD cannot be written. */
export function diskFinding(argument: Argument): Finding | undefined {
  const { option, properties } = argument;
  const readOnly = ["readonly", "read-only"].flatMap((key) => properties.get(key) ?? []);
  const written = readOnly.length === 0 || !readOnly.every(isOn) || isOn(properties.get("snapshot"));
  if (option === "drive") {
    const empty =
      !["file", "driver", "filename"].some((key) => properties.has(key)) && !hasNested(properties);
    if (properties.get("media") === "cdrom" || empty) return undefined;
    if (properties.get("if") === "pflash" && written)
      return refused(
        "unprotected-disk",
        "is flash memory that the guest writes, in a file that Remus would not bring along",
        "Name firmware and variable store as vm.uefi.code and vm.uefi.variables.",
      )(argument);
  }
  if ((option === "drive" || option === "blockdev") && !written) return undefined;
  return refused(
    "unprotected-disk",
    "adds a disk that can be written and that Remus would not copy",
    "Put it into vm.disks; or make it read-only (-drive …,readonly=on), the same on both hosts. A CD belongs into vm.cdroms.",
  )(argument);
}

function hasNested(properties: ReadonlyMap<string, string>): boolean {
  return [...properties.keys()].some((key) => key.startsWith("file."));
}

/**
 * Nodes that QEMU opens for writing only if a user of theirs wants to write (`auto-read-only`), and whose one
 * user is a node that is only read: as libvirt describes a CD. A node that anybody else could use is none of
 * them.
 */
export function onlyReadNodes(all: readonly Argument[]): ReadonlySet<Argument> {
  const found = all.filter(({ option, properties, value }) => {
    const node = properties.get("node-name");
    if (option !== "blockdev" || node === undefined || !isOn(properties.get("auto-read-only"))) return false;
    if (properties.has("read-only") && !isOn(properties.get("read-only"))) return false;
    const users = all.filter((other) => other.value !== value && mentions(other, node));
    return users.length > 0 && users.every((user) => isReadOnlyUser(user, node));
  });
  return new Set(found);
}

function mentions({ value }: Argument, node: string): boolean {
  return value.includes(node);
}

function isReadOnlyUser({ option, properties }: Argument, node: string): boolean {
  return option === "blockdev" && properties.get("file") === node && isOn(properties.get("read-only"));
}
