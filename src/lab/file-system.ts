/**
 * Whether the ext4 file system on an image is whole, and what its files hold. Looks at a copy, so the image
 * may be a running VM's that is held at a checkpoint; one that is written meanwhile has no state to be looked
 * at.
 */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export interface FileSystemCheck {
  readonly clean: boolean;
  /** What e2fsck or the kernel found, in the tool's words; empty when clean. */
  readonly complaint: string;
}

export interface CheckOptions {
  readonly format?: "raw" | "qcow2";
  /** Is given the files, clean or not, once the journal is replayed. */
  readonly read?: (files: ImageFiles) => Promise<void>;
}

/** Whether the file system on `image` is whole. */
export async function fsckClean(image: string, options: CheckOptions = {}): Promise<boolean> {
  return (await checkFileSystem(image, options)).clean;
}

/**
 * The same, with what is wrong. What the next mount would do is done first: the journal is replayed, and
 * files that were open when they were deleted are freed. Then nothing may be left to mend, and the kernel
 * must not have found a mistake while it ran.
 * @throws when a program is missing, the image cannot be copied, or `read` throws
 */
export async function checkFileSystem(
  image: string,
  { format = "raw", read }: CheckOptions = {},
): Promise<FileSystemCheck> {
  const folder = await mkdtemp(join(tmpdir(), `remus-lab-${process.pid}-fsck-`));
  try {
    const copy = join(folder, "image");
    if (format === "raw") await run("cp", ["--sparse=always", "--reflink=auto", image, copy]);
    else await run("qemu-img", ["convert", "-U", "-f", format, "-O", "raw", image, copy]);
    const complaint = (await replay(copy)) ?? (await problems(copy)) ?? "";
    await read?.(new ImageFiles(copy, folder));
    return { clean: complaint === "", complaint };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What a mount does. */
async function replay(image: string): Promise<string | undefined> {
  const { status, text } = await look("e2fsck", ["-p", "-E", "journal_only", image]);
  // 1 says that something was mended, which a replay is.
  if (status > 1) return text;
  const header = await look("dumpe2fs", ["-h", image]);
  const state = /^Filesystem state:\s*(.*)$/m.exec(header.text)?.[1];
  return state === "clean" ? undefined : `the kernel found a mistake: file system state "${state}"`;
}

/**
 * A superblock whose counts of free blocks are old is none: the kernel writes them seldom, and counts anew at
 * a mount.
 */
async function problems(image: string): Promise<string | undefined> {
  const { status, text } = await look("e2fsck", ["-f", "-n", image]);
  return status === 0 ? undefined : text;
}

/** Runs a program that says in its status how something is. @throws when there is no such program */
async function look(program: string, words: readonly string[]): Promise<{ status: number; text: string }> {
  try {
    const { stdout } = await run(program, [...words], { maxBuffer: 64 << 20 });
    return { status: 0, text: stdout };
  } catch (error) {
    const { code, stdout, stderr } = error as { code?: unknown; stdout: string; stderr: string };
    if (typeof code !== "number") throw error;
    return { status: code, text: `${stdout}${stderr}`.trim() };
  }
}

/** The files of an ext4 image that nobody has mounted. Paths begin with a slash. */
export class ImageFiles {
  private readonly image: string;
  private readonly folder: string;

  /** @param folder for files taken out of the image */
  constructor(image: string, folder: string) {
    this.image = image;
    this.folder = folder;
  }

  /** @throws when there is no such file */
  async read(path: string): Promise<Buffer> {
    const target = join(this.folder, "taken-out");
    await rm(target, { force: true });
    const { stderr } = await run("debugfs", ["-R", `dump "${path}" ${target}`, this.image]);
    return await readFile(target).catch((cause) => {
      throw new Error(`no file ${path} on the image: ${stderr.trim().split("\n").at(-1)}`, { cause });
    });
  }
}
