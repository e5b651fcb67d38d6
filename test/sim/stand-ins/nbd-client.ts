/** In place of `src/disk/nbd-client.ts`: what an export of QEMU's would do to the disk image of this host. */
import { theWorld } from "../world/present.ts";
import { BLOCK_BYTES, BLOCKS } from "../world/storage.ts";
import { current, type SimProcess } from "../world/time.ts";

export class NbdError extends Error {}

export class NbdClient {
  readonly bytes = BLOCKS * BLOCK_BYTES;
  readonly closed: Promise<Error>;
  private readonly world = theWorld();
  private readonly process: SimProcess = current();
  private readonly host = this.world.hostOf(this.process);
  private readonly qemu = this.host.qemu!;
  private readonly close: (error: Error) => void;
  private over = false;

  private constructor() {
    const { promise, resolve } = Promise.withResolvers<Error>();
    this.closed = promise;
    this.close = resolve;
  }

  static async connect(): Promise<NbdClient> {
    await current().later(0.3);
    return new NbdClient();
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.request(0, () => {
      const bytes = Buffer.alloc(length);
      for (let at = 0; at < length; at += BLOCK_BYTES)
        bytes.writeUInt32BE(this.host.disk.blocks[(offset + at) / BLOCK_BYTES]!, at);
      return bytes;
    });
  }

  write(offset: number, data: Uint8Array): Promise<void> {
    const values = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const numbers: number[] = [];
    for (let at = 0; at < data.length; at += BLOCK_BYTES) numbers.push(values.getUint32(at));
    return this.change(() => {
      for (const [i, value] of numbers.entries()) this.host.disk.write(offset / BLOCK_BYTES + i, value);
    });
  }

  zero(offset: number, length: number): Promise<void> {
    return this.change(() => {
      for (let at = offset; at < offset + length; at += BLOCK_BYTES)
        this.host.disk.write(at / BLOCK_BYTES, 0);
    });
  }

  trim(): Promise<void> {
    return this.change(() => {});
  }

  async blockStatus(
    offset: number,
    length: number,
    context: string,
  ): Promise<{ length: number; flags: number }[]> {
    const bitmap = context.startsWith("qemu:dirty-bitmap:")
      ? this.qemu.snapshots.get(context.slice("qemu:dirty-bitmap:".length))!
      : undefined;
    return await this.request(0, () => {
      const extents: { length: number; flags: number }[] = [];
      for (let at = offset; at < offset + length; at += BLOCK_BYTES) {
        const block = at / BLOCK_BYTES;
        const flags =
          bitmap === undefined ? (this.host.disk.blocks[block] === 0 ? 3 : 0) : Number(bitmap.has(block));
        extents.push({ length: BLOCK_BYTES, flags });
      }
      return extents;
    });
  }

  flush(): Promise<void> {
    const ended = this.host.disk.beginFlush();
    const takesMs = this.world.random.between(0.2, this.host.flushMs);
    return this.request(takesMs, () => {
      if (this.host.diskFails || this.host.syncFails) throw new NbdError("flush: EIO");
      ended();
    });
  }

  async disconnect(): Promise<void> {
    this.over = true;
  }

  destroy(): void {
    if (this.over) return;
    this.over = true;
    this.close(new Error("the guardian ends"));
  }

  private change(act: () => void): Promise<void> {
    return this.request(0, () => {
      if (this.host.diskFails) throw new NbdError("write: ENOSPC");
      act();
    });
  }

  private async request<T>(moreMs: number, act: () => T): Promise<T> {
    await this.process.later(moreMs + this.world.random.between(0.02, this.host.diskMs ?? this.world.diskMs));
    while (this.qemu.hung && this.qemu.alive) await this.process.later(5);
    if (!this.qemu.alive || this.over) throw new NbdError("the export is gone");
    return act();
  }
}
