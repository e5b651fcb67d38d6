/**
 * Machine types with a version, as the QEMU of this machine offers them: each QEMU drops those that are six
 * years old.
 */
import { execFileSync } from "node:child_process";

/** Such as `pc-i440fx-2.12`, oldest first. */
export function machineTypes(family: "pc-i440fx" | "pc-q35"): string[] {
  const help = execFileSync("qemu-system-x86_64", ["-machine", "help"], { encoding: "utf8" });
  const names = [...help.matchAll(/^(\S+) /gm)].map(([, name]) => name!);
  const order = new Intl.Collator("en", { numeric: true });
  return names.filter((name) => new RegExp(`^${family}-\\d+\\.\\d+$`).test(name)).sort(order.compare);
}

/** Whether `name`, of machineTypes, is of this QEMU version or a later one. */
export function isFrom(name: string, version: string): boolean {
  const own = name.slice(name.lastIndexOf("-") + 1);
  return new Intl.Collator("en", { numeric: true }).compare(own, version) >= 0;
}
