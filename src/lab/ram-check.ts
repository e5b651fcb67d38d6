/** Invariant I7, looked at from outside: two RAM files, byte for byte. */
import { PAGE_BYTES } from "../codec/replication.ts";
import { Mapping } from "../os/mapping.ts";

const STEP_BYTES = 4 << 20;

/**
 * Two RAM files, mapped once: to map them anew for each look would cost a page fault a page, with the VM
 * paused.
 */
export class RamComparison {
  private readonly a: Mapping;
  private readonly b: Mapping;

  /** Reads all of both once. @throws if their sizes differ */
  constructor(pathA: string, pathB: string) {
    this.a = Mapping.file(pathA, "read");
    this.b = Mapping.file(pathB, "read");
    const [lengthA, lengthB] = [this.a.bytes.length, this.b.bytes.length];
    if (lengthA !== lengthB) {
      this.close();
      throw new Error(`${pathA} has ${lengthA} bytes, ${pathB} ${lengthB}`);
    }
    this.differingPages();
  }

  /** Numbers of the pages in which the two differ; both must hold still. */
  differingPages(): number[] {
    const { a, b } = this;
    const pages: number[] = [];
    const length = a.bytes.length;
    for (let from = 0; from < length; from += STEP_BYTES) {
      const step = Math.min(STEP_BYTES, length - from);
      if (a.equals(b, from, step)) continue;
      for (let offset = from; offset < from + step; offset += PAGE_BYTES)
        if (!a.equals(b, offset, Math.min(PAGE_BYTES, length - offset))) pages.push(offset / PAGE_BYTES);
    }
    return pages;
  }

  close(): void {
    this.a.close();
    this.b.close();
  }
}
