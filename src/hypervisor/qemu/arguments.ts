/**
 * QEMU's command line, read as QEMU reads it (softmmu/vl.c, util/qemu-option.c): options, their values, and
 * what is in those.
 */

export interface Argument {
  /**
   * Without its dashes: `device`. Empty for a word that belongs to no option, which QEMU takes for a disk
   * image.
   */
  readonly option: string;
  /** As it was written; empty without one. */
  readonly value: string;
  /** As it was written, for messages. */
  readonly text: string;
  /** The driver of a `-device`, the type of a `-netdev` or `-object`, the backend of a `-chardev`. */
  readonly head: string;
  readonly properties: ReadonlyMap<string, string>;
  /** Why QEMU could not read it either, or might read it in another way than Remus. */
  readonly unreadable?: string;
}

/** Options without a value. All others that QEMU has take the next word, whatever it looks like. */
const flags = new Set(
  (
    "h help version audio-help mem-prealloc snapshot usb nographic portrait full-screen win2k-hack no-fd-bootchk " +
    "no-acpi no-hpet singlestep preconfig S s enable-kvm no-kvm no-reboot no-shutdown daemonize only-migratable " +
    "nodefaults no-user-config nouserconfig async-teardown enable-sync-profile xen-attach xen-domid-restrict " +
    "semihosting curses sdl no-quit alt-grab ctrl-grab enable-fips perfmap jitdump"
  ).split(" "),
);

/** QEMU takes `-option` and `--option`; it knows neither abbreviations nor `-option=value`. */
export function parseArguments(args: readonly string[]): Argument[] {
  const found: Argument[] = [];
  for (let i = 0; i < args.length; i++) {
    const word = args[i]!;
    if (!word.startsWith("-")) {
      found.push({ option: "", value: word, text: word, head: "", properties: new Map() });
      continue;
    }
    const option = /^--?$/.test(word) ? word : word.replace(/^--?/, "");
    const alone = flags.has(option) || /^-|[\s=]/.test(option);
    const value = alone ? undefined : args[i + 1];
    if (value !== undefined) i++;
    const text = [word, value].join(" ").trim();
    const lacking = value === undefined && !alone ? { unreadable: "lacks its value" } : {};
    found.push({ option, value: value ?? "", text, ...properties(value ?? ""), ...lacking });
  }
  return found;
}

/** QEMU's words for yes. */
export function isOn(value: string | undefined): boolean {
  return value === "on" || value === "yes" || value === "true" || value === "y";
}

/** What comes first in a value may go without its key. It is one of these, and the last mention counts. */
const heads = ["driver", "type", "qom-type", "backend", "qom_type"];

/** `head,key=value,flag,noflag` with `,,` for a comma, or JSON. */
function properties(value: string): Pick<Argument, "head" | "properties" | "unreadable"> {
  if (value.startsWith("{")) {
    const json = jsonObject(value);
    if (json === undefined) return { head: "", properties: new Map(), unreadable: "is no JSON" };
    const map = new Map(Object.entries(json).map(([k, v]) => [k, v === true ? "on" : String(v)]));
    return { head: headOf(map) ?? "", properties: map };
  }
  const map = new Map<string, string>();
  const parts = value.replaceAll(",,", "\0").split(",");
  for (const [index, part] of parts.entries()) {
    const [key, ...rest] = part.replaceAll("\0", ",").split("=");
    if (rest.length > 0) map.set(key!, rest.join("="));
    // A flag; QEMU has an old way to say that it is off. What comes first may be a value instead.
    else if (index > 0 && /^no./.test(key!)) map.set(key!.slice(2), "off").set(key!, "on");
    else map.set(key!, "on");
  }
  const first = parts[0]!.replaceAll("\0", ",");
  return { head: headOf(map) ?? (first.includes("=") ? "" : first), properties: map };
}

function headOf(map: ReadonlyMap<string, string>): string | undefined {
  return heads.map((key) => map.get(key)).find((head) => head !== undefined);
}

function jsonObject(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}
