/**
 * A copy of the RAM image as it is at one instant, made bit by bit while the image goes on changing: a page
 * that is about to change is copied first. So the instant itself costs no more than noting which pages there
 * are.
 */
import { PAGE_BYTES } from "../codec/replication.ts";

export class RamSnapshot {
  private readonly source: Uint8Array;
  private readonly target: Uint8Array;
  /** One byte a page: it has contents, and they are not in the copy yet. */
  private readonly left: Uint8Array;
  private next = 0;

  /**
   * @param touched one byte a page: whether it may hold anything but zeros
   * @param target zeroed, as large as `source`
   */
  constructor(source: Uint8Array, touched: Uint8Array, target: Uint8Array) {
    if (source.length !== target.length)
      throw new RangeError(`a copy of ${target.length} bytes of ${source.length}`);
    this.source = source;
    this.target = target;
    this.left = touched.slice();
  }

  /** To be called before a page changes. */
  keep(page: number): void {
    if (this.left[page] === 1) this.copy(page);
  }

  /** Copies up to `pages` further ones. Returns whether the copy is whole now. */
  copyOn(pages: number): boolean {
    for (let copied = 0; copied < pages; copied++) {
      this.next = this.left.indexOf(1, this.next);
      if (this.next < 0) {
        this.next = this.left.length;
        return true;
      }
      this.copy(this.next);
    }
    return false;
  }

  private copy(page: number): void {
    const from = page * PAGE_BYTES;
    this.target.set(this.source.subarray(from, from + PAGE_BYTES), from);
    this.left[page] = 0;
  }
}
