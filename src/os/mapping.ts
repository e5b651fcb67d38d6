/** Memory mapped from a file, seen as bytes. */
import { closeSync, constants, fstatSync, openSync } from "node:fs";
import koffi from "koffi";
import { libc, SystemCallError } from "./libc.ts";

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

export class Mapping {
  /** The mapped memory. Must not be touched after `close`. */
  readonly bytes: Uint8Array;
  readonly address: bigint;

  private constructor(address: bigint, length: number) {
    this.address = address;
    this.bytes = new Uint8Array(koffi.view(address, length));
  }

  /** Maps a whole file; writes reach every other process that maps it. */
  static file(path: string, access: "read" | "write"): Mapping {
    const fd = openSync(path, access === "write" ? constants.O_RDWR : constants.O_RDONLY);
    try {
      return Mapping.descriptor(fd, access);
    } finally {
      closeSync(fd);
    }
  }

  /** The same of a file that is open, and may be closed afterwards. */
  static descriptor(fd: number, access: "read" | "write"): Mapping {
    const protection = access === "write" ? PROT_READ | PROT_WRITE : PROT_READ;
    return Mapping.map(fstatSync(fd).size, protection, MAP_SHARED, fd);
  }

  /** Zeroed memory at a fixed address, for structures whose addresses go into system calls. */
  static anonymous(length: number): Mapping {
    return Mapping.map(length, PROT_READ | PROT_WRITE, MAP_PRIVATE_ANONYMOUS, -1);
  }

  private static map(length: number, protection: number, flags: number, fd: number): Mapping {
    const address = BigInt(libc.mmap(null, length, protection, flags, fd, 0));
    if (address === MAP_FAILED) throw new SystemCallError("mmap", koffi.errno());
    return new Mapping(address, length);
  }

  /** Whether `length` bytes at `offset` are the same in both mappings. */
  equals(other: Mapping, offset: number, length: number): boolean {
    return libc.memcmp(this.address + BigInt(offset), other.address + BigInt(offset), length) === 0;
  }

  close(): void {
    libc.munmap(this.address, this.bytes.length);
  }
}
