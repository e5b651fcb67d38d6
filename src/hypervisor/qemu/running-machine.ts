/**
 * The machine as a running QEMU tells of it, whatever its command line says: devices that came by hot-plug,
 * RAM blocks, drives, the CPU as the guest sees it, firmware. A standby in `-incoming` has all of it, too, so
 * the two can be compared.
 */
import { readFile } from "node:fs/promises";
import { type FeatureWord, registerName } from "./cpu-features.ts";
import { type DeviceNode, deviceName, parseDeviceTree, textProperty } from "./device-tree.ts";
import type { Fingerprint } from "./fingerprint.ts";
import { GROUPS } from "./fingerprint-groups.ts";
import { type Qmp, QmpError } from "./qmp.ts";
import { romDigests } from "./rom-files.ts";

/** The machine type that an alias (`pc`) stands for. */
export async function machineType(qmp: Qmp): Promise<string> {
  const type = await qmp.execute<string>("qom-get", { path: "/machine", property: "type" });
  return type.replace(/-machine$/, "");
}

/** @param pid QEMU's process: its command line tells where its firmware comes from */
export async function runningMachine(qmp: Qmp, pid: number): Promise<Fingerprint> {
  const [devices, cpu, drives, blocks] = [
    await deviceTree(qmp),
    await cpuFacts(qmp),
    await driveFacts(qmp),
    await ramBlocks(qmp),
  ];
  return {
    "machine type": await machineType(qmp),
    ...cpu,
    ...deviceFacts(devices),
    ...(await memoryDevices(qmp)),
    ...drives,
    ...blocks,
    ...(await firmware(qmp, pid, devices)),
  };
}

export async function deviceTree(qmp: Qmp): Promise<DeviceNode[]> {
  return parseDeviceTree(await monitor(qmp, "info qtree"));
}

/** How many of each there are, by name. */
export function deviceFacts(devices: readonly DeviceNode[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const device of devices) {
    // Half of a card or disk that is counted already.
    if (device.place === "virtio-bus") continue;
    const key = `${GROUPS.device}${deviceName(device)}`;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
}

/** Memory that was plugged in sits on no bus. */
async function memoryDevices(qmp: Qmp): Promise<Fingerprint> {
  type Plugged = { type: string; data: { id?: string; size?: number; "max-size"?: number } };
  const plugged = await qmp.execute<Plugged[]>("query-memory-devices");
  return Object.fromEntries(
    plugged.map(({ data, type }, index) => [
      `${GROUPS.device}${type} ${data.id === undefined ? index : `"${data.id}"`}`,
      data["max-size"] ?? data.size ?? 0,
    ]),
  );
}

const CPU_PROPERTIES = ["vendor", "family", "model", "stepping", "model-id", "level", "xlevel", "phys-bits"];

/** All of a machine's CPUs are alike. */
async function cpuFacts(qmp: Qmp): Promise<Fingerprint> {
  const cpus = await qmp.execute<{ "qom-path": string }[]>("query-cpus-fast");
  const get = <T>(property: string) => qmp.execute<T>("qom-get", { path: cpus[0]!["qom-path"], property });
  const words = await get<FeatureWord[]>("feature-words");
  const values = await Promise.all(
    CPU_PROPERTIES.map(async (name) => [`CPU's ${name}`, await get<string | number>(name)] as const),
  );
  return {
    "vcpus plugged in": cpus.length,
    ...Object.fromEntries(words.map((word) => [`${GROUPS.cpuid}${registerName(word)}`, word.features])),
    ...Object.fromEntries(values),
  };
}

/** Of each drive of a device: size and whether it may be written, or that it has no medium. */
export async function driveFacts(qmp: Qmp): Promise<Record<string, string>> {
  interface Drive {
    readonly device: string;
    readonly qdev?: string;
    readonly inserted?: { readonly ro: boolean; readonly image: { readonly "virtual-size": number } };
  }
  const drives = await qmp.execute<Drive[]>("query-block");
  return Object.fromEntries(
    drives
      .filter(({ qdev }) => qdev !== undefined)
      .map(({ inserted, qdev }) => [
        `${GROUPS.drive}${qdev}`,
        inserted === undefined
          ? "no medium"
          : `${inserted.image["virtual-size"]} bytes${inserted.ro ? ", read-only" : ""}`,
      ]),
  );
}

/** The most that each may grow to. Few do: tables that QEMU makes for the guest. */
async function ramBlocks(qmp: Qmp): Promise<Record<string, number>> {
  const text = await monitor(qmp, "info ramblock");
  return Object.fromEntries(
    [...text.matchAll(/^\s*(\S+)\s+\d+ [KMG]iB\s+0x[0-9a-f]+\s+0x[0-9a-f]+\s+0x([0-9a-f]+)/gm)].map(
      ([, name, total]) => [`${GROUPS.ram}${name}`, Number.parseInt(total!, 16)],
    ),
  );
}

/**
 * What is in the files of the machine's firmware, the cards' boot ROMs, and the ROMs that QEMU adds by
 * itself.
 */
async function firmware(qmp: Qmp, pid: number, devices: readonly DeviceNode[]): Promise<Fingerprint> {
  const [program, ...args] = (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0");
  const main = await qmp
    .execute<string>("qom-get", { path: "/machine", property: "firmware" })
    .catch((error: unknown) => {
      // A machine without such a property has no such file.
      if (error instanceof QmpError) return "";
      throw error;
    });
  const roms = devices.map((device) => textProperty(device, "romfile"));
  const added = [...(await monitor(qmp, "info roms")).matchAll(/fw=genroms\/(\S+)/g)].map(
    ([, name]) => name!,
  );
  const names = [...new Set([main, ...roms, ...added])].filter((name) => name !== "");
  const digests = await romDigests(names, { program: program!, args });
  return Object.fromEntries(digests.map(([name, digest]) => [`${GROUPS.rom}${name} (sha256)`, digest]));
}

function monitor(qmp: Qmp, line: string): Promise<string> {
  return qmp.execute<string>("human-monitor-command", { "command-line": line });
}
