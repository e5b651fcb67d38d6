/** Invariant I7, looked at from outside: two RAM files, byte for byte. */
import { Mapping } from "../os/mapping.ts";

const PAGE_BYTES = 4096;
const STEP_BYTES = 4 << 20;

/** Numbers of the pages in which the two files differ; both must hold still. @throws if their sizes differ. */
export function differingPages(pathA: string, pathB: string): number[] {
  const a = Mapping.file(pathA, "read");
  try {
    const b = Mapping.file(pathB, "read");
    try {
      if (a.bytes.length !== b.bytes.length)
        throw new Error(`${pathA} has ${a.bytes.length} bytes, ${pathB} ${b.bytes.length}`);
      return compare(a, b);
    } finally {
      b.close();
    }
  } finally {
    a.close();
  }
}

function compare(a: Mapping, b: Mapping): number[] {
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
