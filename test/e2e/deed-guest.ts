/**
 * A guest of a few instructions, an option ROM, which counts and does what a byte in its memory tells it. The
 * test reads and writes its RAM, which is a file.
 */
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { eventually } from "./lab-session.ts";

const COUNTER = 0x10000;
const DEED = COUNTER + 0x10;
const DEEDS = ["power-off", "reset", "panic", "sleep", "triple-fault"] as const;
/** Where a copy of its code lies for the time after a sleep. */
const AWAKE = 0x20000;
/** Of the table FACS (ACPI 5.2.10): where firmware goes when the machine wakes. */
const WAKING_VECTOR = 12;
const FACS = Buffer.from("FACS\x40\0\0\0", "latin1");

/** What the guest does when it is told to. A panic needs a pvpanic device. */
export type Deed = (typeof DEEDS)[number];

/**
 * 55 aa, one block, then, with es = 1000h: loop: inc word es:[0]; al = es:[10h]; by al: 1 outw 604h, 2000h
 * (ACPI off); 2 outb 64h, feh (keyboard reset); 3 outb 505h, 1 (pvpanic); 4 outw 604h, 2400h (S3); 5 lidt of
 * nothing, int3 (triple fault). The byte is cleared first, at the start and before each deed.
 */
export function deedRom(): Buffer {
  const clear = "26c606100000";
  const deeds = [
    `${clear}ba0406b80020efebfe`,
    `${clear}b0fee664ebfe`,
    `${clear}ba0505b001eeebfe`,
    `${clear}ba0406b80024efebfe`,
    // An IDT of no bytes lies at es:[20h], where nothing is written.
    `${clear}260f011e2000ccebfe`,
  ].map((code) => Buffer.from(code, "hex"));
  const head = Buffer.from(`55aa01b800108ec0${clear}`, "hex");
  const count = Buffer.from("26ff06000026a01000", "hex");
  const tests = 4 * deeds.length + 2;
  let at = tests;
  const branches = deeds.map((code, index) => {
    const from = 4 * (index + 1);
    const branch = Buffer.from([0x3c, index + 1, 0x74, at - from]);
    at += code.length;
    return branch;
  });
  const back = Buffer.from([0xeb, 256 - (count.length + tests)]);
  const block = Buffer.alloc(512);
  Buffer.concat([head, count, ...branches, back, ...deeds]).copy(block);
  block[511] = -block.reduce((sum, byte) => sum + byte, 0) & 255;
  return block;
}

export class DeedGuest {
  private readonly ram: string;

  /** @param ram the file that is its RAM */
  constructor(ram: string) {
    this.ram = ram;
  }

  /** It runs while this changes. */
  get count(): number {
    const fd = openSync(this.ram, "r");
    try {
      const word = Buffer.alloc(2);
      readSync(fd, word, 0, 2, COUNTER);
      return word.readUInt16LE();
    } finally {
      closeSync(fd);
    }
  }

  async counts(): Promise<void> {
    const before = this.count;
    await eventually("the guest counts", () => this.count !== before, 30_000);
  }

  /** As soon as it runs. */
  does(deed: Deed): void {
    this.write(Buffer.from([DEEDS.indexOf(deed) + 1]), DEED);
  }

  /**
   * It goes on counting when it is woken. To be said before its RAM is copied, for QEMU does not see what is
   * written here.
   */
  canWake(): void {
    const at = readFileSync(this.ram).indexOf(FACS);
    if (at < 0) throw new Error("the guest's firmware has made no table FACS");
    const start = Buffer.alloc(4);
    start.writeUInt32LE(AWAKE + 3);
    this.write(deedRom(), AWAKE);
    this.write(start, at + WAKING_VECTOR);
  }

  private write(bytes: Uint8Array, at: number): void {
    const fd = openSync(this.ram, "r+");
    try {
      writeSync(fd, bytes, 0, bytes.length, at);
    } finally {
      closeSync(fd);
    }
  }
}
