/**
 * Which modules of a kernel a guest must load for its devices, and in which order: kernels have built in what
 * others have as modules.
 */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { moduleFileNames, unpackModule } from "./unpack-module.ts";

/**
 * Of the modules of one kernel, unpacked into `root` as a Debian package lies. Module files lie in lib/ or
 * usr/lib/, packed or not.
 */
export class KernelModules {
  private readonly root: string;
  private readonly files: readonly string[];
  private readonly builtIn: ReadonlySet<string>;
  private readonly unpacked = new Map<string, Uint8Array>();

  private constructor(root: string, files: readonly string[], builtIn: ReadonlySet<string>) {
    this.root = root;
    this.files = files;
    this.builtIn = builtIn;
  }

  static async in(root: string): Promise<KernelModules> {
    const files: string[] = [];
    for (const folder of ["lib/modules", "usr/lib/modules"]) {
      const all = await readdir(join(root, folder), { recursive: true }).catch(() => []);
      files.push(...all.map((file) => join(root, folder, file)));
    }
    const lists = files.filter((file) => basename(file) === "modules.builtin");
    const lines = (await Promise.all(lists.map((file) => readFile(file, "utf8")))).join("\n").split("\n");
    return new KernelModules(root, files, new Set(lines.map((line) => basename(line, ".ko"))));
  }

  /**
   * The modules for `wanted`, each behind those that it needs, without what is built in.
   * @throws when there is no such module
   */
  async order(wanted: readonly string[]): Promise<string[]> {
    const ordered: string[] = [];
    const add = async (name: string): Promise<void> => {
      if (ordered.includes(name) || this.builtIn.has(name)) return;
      for (const needed of dependencies(await this.bytes(name))) await add(needed);
      ordered.push(name);
    };
    for (const name of wanted) await add(name);
    return ordered;
  }

  /** The module itself, ready for insmod. */
  async bytes(name: string): Promise<Uint8Array> {
    const known = this.unpacked.get(name);
    if (known !== undefined) return known;
    const names = moduleFileNames(name);
    const file = this.files.find((one) => names.includes(basename(one)));
    if (file === undefined)
      throw new Error(
        `no kernel module ${name}.ko, packed or not, under ${this.root}: remove that folder and run setup again`,
      );
    const bytes = await unpackModule(file);
    this.unpacked.set(name, bytes);
    return bytes;
  }
}

/**
 * What a module says of itself in its section .modinfo: `depends=virtio,virtio_ring`, ended by a zero byte.
 */
function dependencies(module: Uint8Array): string[] {
  const bytes = Buffer.from(module.buffer, module.byteOffset, module.byteLength);
  const at = bytes.indexOf("\0depends=", 0, "latin1");
  if (at < 0) return [];
  const from = at + "\0depends=".length;
  const names = bytes.toString("latin1", from, bytes.indexOf(0, from));
  return names === "" ? [] : names.split(",");
}
