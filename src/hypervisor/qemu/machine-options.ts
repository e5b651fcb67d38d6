/**
 * What may be said of a machine beside its type, in `vm.machine` behind a comma or in an extra `-machine`.
 */
import { parseArguments } from "./arguments.ts";
import { error, type Finding } from "./traps.ts";

/** What is the guest's hardware, or QEMU's own affair, and nothing that Remus sets. */
const guestProperty =
  /^(smm|vmport|hpet|usb|mem-merge|dump-guest-core|kernel[-_]irqchip|smbus|sata|pit|pic|i8042|acpi|fd-bootchk|graphics|max-ram-below-4g|smbios-entry-point-type)$/;

export function areGuestProperties(properties: ReadonlyMap<string, string>): boolean {
  return [...properties.keys()].every((key) => guestProperty.test(key));
}

/** @param machine `vm.machine`: a type, and its properties as QEMU writes them: `q35,smm=on` */
export function machineFindings(machine: string): Finding[] {
  const [argument] = parseArguments(["-machine", machine]);
  const { head, properties } = argument!;
  const more = new Map([...properties].filter(([key]) => key !== head && key !== "type"));
  if (/^[\w.-]+$/.test(head) && areGuestProperties(more)) return [];
  return [
    error(
      "reserved-argument",
      `vm.machine "${machine}" must be a machine type, behind which only properties of the guest's hardware may stand, such as q35,smm=on. Remus sets all others.`,
    ),
  ];
}
