/**
 * The lab's guest without an operating system (guest/echo.S): an option ROM, assembled once into
 * `.cache/echo-<hash>.rom`.
 */
import { execFile } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { access, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const source = join(import.meta.dirname, "guest/echo.S");
/** Its code begins at offset 0 of its segment, where firmware puts the ROM. */
const linkFlags = ["-m", "elf_i386", "-Ttext=0", "--entry=0", "--oformat=binary"];
const BLOCK_BYTES = 512;
const MAX_BLOCKS = 127;

/** EtherType of requests and answers: for local experiments (IEEE 802). */
export const echoType = 0x88b5;

/** What QEMU is told: the ROM, and that cards have no boot ROM, which would be code that KVM may fail at. */
export function echoArguments(rom: string): string[] {
  return ["-option-rom", rom.replaceAll(",", ",,"), "-global", "virtio-net-pci.romfile="];
}

/**
 * Assembles the ROM, or finds the one built before. Several processes may do so at the same time.
 * @returns its absolute path
 * @throws when binutils are missing, or refuse the source
 */
export async function buildEchoRom(cacheDirectory: string): Promise<string> {
  const hash = createHash("sha256")
    .update(await readFile(source))
    .update(linkFlags.join(" "))
    .digest("hex")
    .slice(0, 16);
  const rom = join(cacheDirectory, `echo-${hash}.rom`);
  const built = await access(rom).then(
    () => true,
    () => false,
  );
  if (built) return rom;
  const work = await mkdtemp(join(tmpdir(), "remus-echo-"));
  const partial = `${rom}.${randomUUID()}`;
  try {
    const [object, binary] = [join(work, "echo.o"), join(work, "echo.bin")];
    await tool("as", ["--32", "-o", object, source]);
    await tool("ld", [...linkFlags, "-o", binary, object]);
    await mkdir(cacheDirectory, { recursive: true });
    await writeFile(partial, sealed(await readFile(binary)));
    await rename(partial, rom);
  } finally {
    await rm(partial, { force: true });
    await rm(work, { recursive: true });
  }
  return rom;
}

/**
 * A ROM is whole blocks, says how many in its third byte, and all its bytes add up to 0 (PnP BIOS
 * specification 1.0a, 3.2).
 */
function sealed(code: Buffer): Buffer {
  const blocks = Math.ceil((code.length + 1) / BLOCK_BYTES);
  if (blocks > MAX_BLOCKS)
    throw new Error(`${source} gives ${code.length} bytes, too many for an option ROM`);
  const rom = Buffer.alloc(blocks * BLOCK_BYTES);
  code.copy(rom);
  rom[2] = blocks;
  rom[rom.length - 1] = -rom.reduce((sum, byte) => sum + byte, 0) & 255;
  return rom;
}

async function tool(program: string, words: readonly string[]): Promise<void> {
  try {
    await run(program, [...words]);
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    const why = code === "ENOENT" ? "it is missing; apt-get install binutils" : stderr || String(error);
    throw new Error(`${program} cannot build ${source}: ${why}`, { cause: error });
  }
}
