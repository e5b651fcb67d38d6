/**
 * In place of `node:fs/promises`: the files of the host whose process asks. A path of the disk image opens
 * the image.
 */
import { theWorld } from "../world/present.ts";
import { current } from "../world/time.ts";

function here() {
  const process = current();
  const world = theWorld();
  const host = world.hostOf(process);
  /** What reaches stable storage takes a while, and may fail. */
  const synced = async (act: () => void, mostMs = host.syncMs) => {
    await process.later(world.random.between(0.2, mostMs));
    if (host.syncFails) throw Object.assign(new Error("EIO: i/o error, fsync"), { code: "EIO" });
    act();
  };
  return { host, files: host.files, disk: host.disk, synced };
}

export async function mkdir(): Promise<void> {}

export async function readFile(path: string, _encoding: string): Promise<string> {
  const text = here().files.read(path);
  if (text === undefined) throw Object.assign(new Error(`ENOENT: ${path}`), { code: "ENOENT" });
  return text;
}

export async function open(path: string, flags: string, _mode?: number) {
  const { disk, files, host, synced } = here();
  if (path.endsWith(".img")) {
    const sync = () => synced(disk.beginFlush(), host.flushMs);
    return { sync, datasync: sync, close: async () => {} };
  }
  if (flags === "r")
    return {
      sync: () =>
        synced(() => {
          files.syncFolder();
          theWorld().checker.foresight.noted(host.name);
        }),
      close: async () => {},
    };
  const inode = files.create(path);
  return {
    writeFile: async (text: string) => {
      if (host.stateFull)
        throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
      inode.text = text;
    },
    sync: () => synced(() => files.sync(inode)),
    close: async () => {},
  };
}

export async function rename(from: string, to: string): Promise<void> {
  here().files.rename(from, to);
}

export async function rm(path: string): Promise<void> {
  const { disk, files, host } = here();
  const logs = disk.logs.filter((log) => log.path !== path);
  const isLog = logs.length < disk.logs.length;
  disk.logs = logs;
  if (isLog) {
    theWorld().step(host.name, "log-goes");
    theWorld().checker.foresight.logGone(host.name);
  }
  files.remove(path);
}
