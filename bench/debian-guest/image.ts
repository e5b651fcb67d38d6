/**
 * The Debian guest: an image that build.sh makes once, into .cache, and an initramfs that goes on from it.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { LabOptions } from "../../src/lab/configuration.ts";
import { KernelModules } from "../../src/lab/kernel-modules.ts";
import { debianMirror } from "../platforms/roots.ts";

const run = promisify(execFile);
const cache = join(import.meta.dirname, "../../.cache");
const IMAGE_MIB = 1400;

export interface DebianGuest {
  readonly image: string;
  readonly mebibytes: number;
  readonly boot: NonNullable<LabOptions["boot"]>;
}

/** Builds what is not there yet; the image takes minutes, once. */
export async function debianGuest(say: (text: string) => void): Promise<DebianGuest> {
  const folder = join(cache, "debian-guest");
  await mkdir(folder, { recursive: true });
  const image = join(folder, "image");
  if (!existsSync(image)) {
    say("building a Debian with systemd and PostgreSQL, once; it takes minutes");
    const script = join(import.meta.dirname, "build.sh");
    const words = ["--mount", "--propagation", "private", "sh", script];
    await run("unshare", [...words, image, await debianMirror(), String(IMAGE_MIB)], { maxBuffer: 64 << 20 });
  }
  const kernelFolder = join(cache, "kernel/boot");
  const kernel = (await readdir(kernelFolder)).find((name) => name.startsWith("vmlinuz-"));
  if (kernel === undefined) throw new Error(`no kernel in ${kernelFolder}: npm run setup`);
  const append =
    "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off cryptomgr.notests systemd.show_status=0";
  const initrd = await initramfs(folder);
  return {
    image,
    mebibytes: IMAGE_MIB,
    boot: { kind: "kernel", kernel: join(kernelFolder, kernel), initrd, append },
  };
}

async function initramfs(folder: string): Promise<string> {
  const modules = await KernelModules.in(join(cache, "kernel"));
  const order = await modules.order(["virtio_pci", "virtio_blk", "virtio_net"]);
  const init = await readFile(join(import.meta.dirname, "init"));
  const hash = createHash("sha256").update(init);
  for (const name of order) hash.update(await modules.bytes(name));
  const target = join(folder, `initramfs-${hash.digest("hex").slice(0, 16)}.cpio`);
  if (existsSync(target)) return target;
  const work = await mkdtemp(join(folder, "work-"));
  try {
    const tree = join(work, "tree");
    for (const name of ["bin", "dev", "proc", "sys", "root", "modules"])
      await mkdir(join(tree, name), { recursive: true });
    await writeFile(join(tree, "init"), init, { mode: 0o755 });
    const { stdout } = await run("sh", ["-c", "command -v busybox"]);
    await copyFile(stdout.trim(), join(tree, "bin/busybox"));
    for (const name of order) await writeFile(join(tree, `modules/${name}.ko`), await modules.bytes(name));
    await writeFile(join(tree, "modules/order"), order.map((name) => `${name}.ko\n`).join(""));
    await run("sh", ["-c", "find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 > ../cpio"], { cwd: tree });
    await rename(join(work, "cpio"), target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return target;
}
