/** In place of `src/memory/backup-images.ts`: the RAM image. A page is a number. */
import type { Layout, PageList } from "../../../src/codec/replication.ts";
import { PAGES } from "../world/guest.ts";

export class LayoutError extends Error {}

export class BackupImages {
  readonly path: string;
  readonly pages: number[] = new Array<number>(PAGES).fill(0);

  private constructor(path: string) {
    this.path = path;
  }

  static create(path: string): Promise<BackupImages> {
    return Promise.resolve(new BackupImages(path));
  }

  begin(_layout: Layout): void {}

  write({ count, pageNumbers, positions, source }: PageList): void {
    const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
    for (let i = 0; i < count; i++) this.pages[pageNumbers[i]!] = view.getUint32(positions[i]!);
  }

  composition(): { pages: readonly number[]; side: readonly never[] } {
    return { pages: [...this.pages], side: [] };
  }

  endCopy(): void {}
  discard(): void {}
}
