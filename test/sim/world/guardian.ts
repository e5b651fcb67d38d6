/** A guardian of the made-up world: the production one, with what src/guardian/main.ts would give it. */
import { StateFile } from "../../../src/disk/state-file.ts";
import type { GuardianConfig } from "../../../src/guardian/config/config.ts";
import type { Context } from "../../../src/guardian/context.ts";
import type { ControlSocket } from "../../../src/guardian/control/socket.ts";
import { serve } from "../../../src/guardian/serve.ts";
import { WitnessWatch } from "../../../src/guardian/watch/witness-watch.ts";
import { ControlSocket as SimControl } from "../stand-ins/control.ts";
import { Stalls } from "../stand-ins/stalls.ts";
import type { Host } from "./host.ts";
import type { Nature, World } from "./world.ts";

export const VM = "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10";

/** A new guardian on this host. Resolves with its exit status. */
export async function beginGuardian(world: World, { fileRole, name }: Host): Promise<number> {
  const config = configOf(name, world.nature, fileRole);
  const { timing, vm, witness: choice } = config;
  const control = new SimControl() as unknown as ControlSocket;
  const log = logOf(world, name);
  const post: Context = {
    config,
    log,
    witness: new WitnessWatch({ choice, vm: vm.uuid, host: name, log, control, everyMs: timing.witnessMs }),
    control,
    stalls: new Stalls() as unknown as Context["stalls"],
    record: await StateFile.open(`/${name}/state/${vm.name}.json`, vm.uuid),
  };
  post.witness.begin();
  return await serve(post);
}

/** What it says goes into the transcript; some of it is counted. */
function logOf(world: World, host: string): Context["log"] {
  const log = {
    info: (text: string) => {
      world.note(host, text);
      const sync = /first sync|quick resync|resync by comparing/.exec(text)?.[0];
      if (sync !== undefined) world.count(`disks: ${sync}`);
      if (text === "the VM is protected") world.count("protected again by itself");
    },
    warn: (text: string) => world.note(host, `warning: ${text}`),
    error: (text: string) => {
      world.note(host, `error: ${text}`);
      if (text.startsWith("internal error")) world.bug(host, text);
    },
  };
  return log as unknown as Context["log"];
}

function configOf(host: string, nature: Nature, fileRole: Host["fileRole"]): GuardianConfig {
  const other = host === "A" ? "B" : "A";
  const config = {
    role: fileRole ?? (host === "A" || nature.bothPrimary ? "primary" : "backup"),
    vm: {
      name: "vm1",
      uuid: VM,
      machine: "pc",
      cpu: "qemu64",
      vcpus: 1,
      memoryMiB: 64,
      nics: [{ mac: "52:54:00:00:00:01", tap: "tap0", virtio: "standard" }],
      disks: nature.hasDisk
        ? [
            {
              image: `/${host}/disk.img`,
              format: "raw",
              bus: "virtio-blk",
              virtio: "standard",
              storage: "replicated",
              durability: nature.durability,
            },
          ]
        : [],
      boot: { kind: "firmware" },
      extraArgs: [],
    },
    runDirectory: `/${host}/run`,
    imageDirectory: `/${host}/images`,
    cacheDirectory: `/${host}/cache`,
    stateDirectory: `/${host}/state`,
    timing: {
      intervalMs: nature.intervalMs,
      detectionMs: nature.detectionMs,
      heartbeatMs: 25,
      witnessMs: 30_000,
      retryMs: nature.retryMs,
      hungMs: nature.hungMs,
    },
    limits: {
      stagingMiB: nature.stagingMiB,
      maxInFlight: nature.maxInFlight,
      heldMiB: 64,
      diskMiB: 0.25,
      commitMiB: 0.15,
    },
    host,
    witness: { kind: "server", url: "http://witness" },
    protect: nature.protectAtStart ? "at-start" : "on-order",
    accelerator: "tcg",
    lab: { bindLifetimes: true },
    replication: {
      peer: nature.links.map((_, link) => ({ host: `${other}${link}`, port: 7000 })),
      listen: nature.links.map((_, link) => ({ host: `${host}${link}`, port: 7000 })),
    },
  };
  return config as unknown as GuardianConfig;
}
