/**
 * Which accelerator a VM can run with is found out by running something, not assumed from /dev/kvm: there are
 * machines (nested, paravirtualized) whose KVM opens, runs firmware, and never gets through the start of
 * Linux.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { access, mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import type { Accelerator } from "./tcg-aids.ts";

export interface AcceleratorAnswer {
  readonly accelerator: Accelerator;
  /** One sentence for the user. */
  readonly reason: string;
  /** KVM is there and runs firmware, but not the given kernel. Enough to try the capture path over KVM. */
  readonly kvmFirmwareOnly: boolean;
}

export interface AcceleratorQuestion {
  /**
   * A Linux kernel (bzImage) with a serial console built in, to try. Without one, KVM counts as usable when
   * firmware runs under it.
   */
  readonly kernel?: string;
  /** Where the answer is kept until the machine boots anew or QEMU changes. */
  readonly cacheDir: string;
  readonly binary?: string;
}

/** A trial run of a guest: how it ended, and why when it did not come up. */
export interface Trial {
  readonly up: boolean;
  readonly why: string;
}

/**
 * Answers at once when asked before since the machine booted; else runs trial guests, for at most about 18 s.
 * Never fails because KVM does not work; fails when QEMU or the kernel is missing.
 */
export async function probeAccelerator(question: AcceleratorQuestion): Promise<AcceleratorAnswer> {
  const { kernel, cacheDir } = question;
  const binary = await findBinary(question.binary ?? "qemu-system-x86_64");
  if (kernel !== undefined)
    await access(kernel, constants.R_OK).catch((cause) => {
      throw new Error(`The kernel ${kernel} cannot be read. Mend vm.boot.kernel, or its rights.`, { cause });
    });
  const closed = await kvmClosed();
  if (closed !== undefined) return { accelerator: "tcg", reason: closed, kvmFirmwareOnly: false };

  const key = await cacheKey(binary, kernel);
  const name = createHash("sha256").update(`${binary}\n${kernel}`).digest("hex").slice(0, 12);
  const file = join(cacheDir, `accelerator-${name}.json`);
  const kept = await readKept(file, key);
  if (kept !== undefined) return kept;

  const answer = await askKvm(binary, kernel);
  await mkdir(cacheDir, { recursive: true });
  await writeFile(`${file}.${process.pid}`, JSON.stringify({ key, answer }));
  await rename(`${file}.${process.pid}`, file);
  return answer;
}

async function askKvm(binary: string, kernel: string | undefined): Promise<AcceleratorAnswer> {
  if (kernel !== undefined) {
    const linux = await tryLinux({ accelerator: "kvm", kernel, binary });
    if (linux.up) return { accelerator: "kvm", reason: "KVM runs Linux here", kvmFirmwareOnly: false };
    const firmware = await tryFirmware({ accelerator: "kvm", binary });
    const reason = firmware.up
      ? `KVM runs firmware here, but not Linux: ${linux.why}`
      : `KVM does not work here: ${firmware.why}`;
    return { accelerator: "tcg", reason, kvmFirmwareOnly: firmware.up };
  }
  const firmware = await tryFirmware({ accelerator: "kvm", binary });
  return firmware.up
    ? { accelerator: "kvm", reason: "KVM runs firmware here; no kernel was tried", kvmFirmwareOnly: false }
    : { accelerator: "tcg", reason: `KVM does not work here: ${firmware.why}`, kvmFirmwareOnly: false };
}

/**
 * Boots `kernel` without a root file system. It is up when it has come to look for one, or for an init: by
 * then it has run all its own set-up. Its first line must come within `firstLineMs`, the end within `endMs`
 * (defaults for KVM, many times what it takes; a kernel that KVM cannot run prints nothing).
 */
export function tryLinux(trial: {
  accelerator: Accelerator;
  kernel: string;
  binary?: string;
  firstLineMs?: number;
  endMs?: number;
}): Promise<Trial> {
  const append = "console=ttyS0 earlyprintk=serial panic=-1";
  return tryGuest({
    binary: trial.binary ?? "qemu-system-x86_64",
    args: [...trialArgs(trial.accelerator, 256), "-no-reboot", "-kernel", trial.kernel, "-append", append],
    signs: [
      { line: /Linux version/, withinMs: trial.firstLineMs ?? 3000, missing: "the kernel printed nothing" },
      {
        line: /VFS: (Cannot open root|Unable to mount)|Run \/\S+ as init/,
        withinMs: trial.endMs ?? 10_000,
        missing: "the kernel started but did not come up",
      },
    ],
  });
}

/** Boots with an option ROM that prints a word: firmware has run, and code that it called. */
export async function tryFirmware(trial: { accelerator: Accelerator; binary?: string }): Promise<Trial> {
  const dir = await mkdtemp(join(tmpdir(), "remus-probe-"));
  try {
    const rom = join(dir, "rom");
    await writeFile(rom, optionRom());
    return await tryGuest({
      binary: trial.binary ?? "qemu-system-x86_64",
      args: [...trialArgs(trial.accelerator, 32), "-option-rom", rom.replaceAll(",", ",,")],
      signs: [{ line: /REMUS/, withinMs: 8000, missing: "firmware did not come to its option ROM" }],
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function trialArgs(accelerator: Accelerator, memoryMiB: number): string[] {
  return [
    ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"],
    ...["-machine", `pc,accel=${accelerator}`, "-cpu", "qemu64", "-m", String(memoryMiB)],
  ];
}

/**
 * 55 aa, one block, then: cld; mov ax,cs; mov ds,ax; mov si,msg; next: lodsb; test al,al; jz end; mov
 * dx,3f8h; out dx,al; jmp next; end: hlt; jmp end; msg: "REMUS\n". All bytes of an option ROM add up to 0.
 */
function optionRom(): Buffer {
  const rom = Buffer.alloc(512);
  const code = Buffer.from("55aa01fc8cc88ed8be1900ac84c07406baf803eeebf5f4ebfd", "hex");
  code.copy(rom);
  rom.write("REMUS\n\0", code.length, "latin1");
  rom[511] = -rom.reduce((sum, byte) => sum + byte, 0) & 255;
  return rom;
}

interface Sign {
  readonly line: RegExp;
  /** From the start of QEMU. */
  readonly withinMs: number;
  readonly missing: string;
}

/** Runs QEMU until its serial line has shown every sign in order, or one is late, or QEMU gives up. */
async function tryGuest(guest: { binary: string; args: string[]; signs: readonly Sign[] }): Promise<Trial> {
  const { promise, resolve } = Promise.withResolvers<Trial>();
  const qemu = spawn(guest.binary, guest.args, { stdio: ["ignore", "pipe", "pipe"] });
  const gone = new Promise<void>((done) => qemu.once("close", () => done()));
  const timers = guest.signs.map((sign) =>
    setTimeout(
      () => resolve({ up: false, why: `${sign.missing} within ${sign.withinMs} ms` }),
      sign.withinMs,
    ),
  );
  let serial = "";
  let seen = 0;
  let said = "";
  qemu.stdout.setEncoding("latin1").on("data", (text: string) => {
    serial += text;
    while (seen < guest.signs.length && guest.signs[seen]!.line.test(serial)) clearTimeout(timers[seen++]);
    if (seen === guest.signs.length) resolve({ up: true, why: "" });
  });
  qemu.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
    // QEMU stays, paused, when KVM cannot run an instruction; no need to wait for the deadline.
    if (/KVM internal error|kvm run failed/i.test(said)) resolve({ up: false, why: lastLine(said) });
  });
  qemu.once("error", (error) => resolve({ up: false, why: error.message }));
  qemu.once("close", () => resolve({ up: false, why: `QEMU ended: ${lastLine(said)}` }));
  try {
    return await promise;
  } finally {
    for (const timer of timers) clearTimeout(timer);
    qemu.kill("SIGKILL");
    await gone;
  }
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1)?.trim() || "it said nothing";
}

/** Why /dev/kvm cannot be opened; undefined when it can. */
async function kvmClosed(): Promise<string | undefined> {
  try {
    await access("/dev/kvm", constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT"
      ? "there is no /dev/kvm"
      : "/dev/kvm is there, but this user may not open it (group kvm?)";
  }
}

async function cacheKey(binary: string, kernel: string | undefined): Promise<string> {
  const boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  const { mtimeMs } = await stat(binary);
  return [boot, binary, mtimeMs, kernel ?? "no kernel"].join(" ");
}

async function readKept(file: string, key: string): Promise<AcceleratorAnswer | undefined> {
  try {
    const kept = JSON.parse(await readFile(file, "utf8")) as { key: string; answer: AcceleratorAnswer };
    return kept.key === key ? kept.answer : undefined;
  } catch {
    return undefined; // not there, or cut off: ask again
  }
}

/** The absolute path of a program on PATH. */
async function findBinary(name: string): Promise<string> {
  const places = name.includes("/")
    ? [name]
    : (process.env.PATH ?? "").split(delimiter).map((dir) => join(dir, name));
  for (const place of places) {
    const executable = await access(place, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (executable) return place;
  }
  throw new Error(`${name} is not on PATH. Install QEMU (apt-get install qemu-system-x86).`);
}
