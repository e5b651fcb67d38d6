/**
 * What QEMU says of the VM's disks on this host: a write or read that failed. Where there is no room the VM
 * stands still (QEMU's `werror=enospc`): it goes on by itself when there is some again. Of any other error
 * the guest is told by QEMU, and its operator by us, with the disk, the file and the reason.
 */
import { statfs } from "node:fs";
import { promisify } from "node:util";
import type { DiskSpec } from "../../hypervisor/vm-spec.ts";
import { Alarm, type Told } from "../watch/alarm.ts";

/** The part of QEMU's monitor that is needed. */
export interface Monitor {
  on(event: string, listener: (data: unknown) => void): unknown;
  execute<T>(command: string, args?: Record<string, unknown>): Promise<T>;
}

export interface DiskErrorsOptions extends Told {
  readonly qmp: Monitor;
  readonly disks: readonly Pick<DiskSpec, "image">[];
  /** It stands still because of a disk, and nothing else wants it to. */
  readonly standsStill: () => boolean;
  /** Bytes that the file system of an image has left. */
  readonly freeBytes?: (image: string) => Promise<number>;
  readonly firstMs?: number;
}

/** QMP BLOCK_IO_ERROR, as far as it is used. */
interface BlockIoError {
  readonly device?: string;
  readonly "node-name"?: string;
  readonly "qom-path"?: string;
  readonly operation: string;
  readonly action: string;
  readonly nospace?: boolean;
  readonly reason?: string;
}

/** Of `query-block`. */
interface BlockDevice {
  readonly qdev?: string;
  readonly "io-status"?: "ok" | "failed" | "nospace";
  readonly inserted?: { readonly "node-name"?: string };
}

interface BlockNode {
  readonly "node-name": string;
  readonly file?: string;
}

/** With less the next write would fail again. */
const ENOUGH_BYTES = 1 << 20;
const FIRST_MS = 500;
const LONGEST_MS = 10_000;
/** A guest that goes on over a broken disk brings thousands of errors; so often one is told. */
const TELL_EVERY_MS = 60_000;
const MIB = 2 ** 20;

export class DiskErrors {
  private readonly options: DiskErrorsOptions;
  private readonly alarm: Alarm;
  private readonly toldMs = new Map<string, number>();
  private waiting: NodeJS.Timeout | undefined;
  /** For room, or for better times, before the VM is to go on. */
  private waits = false;
  private waitMs = 0;
  private closed = false;

  constructor(options: DiskErrorsOptions) {
    this.options = options;
    this.alarm = new Alarm(options, "disk");
    const { qmp } = options;
    qmp.on("BLOCK_IO_ERROR", (data) => void this.failed(data as BlockIoError));
    qmp.on("RESUME", () => this.resumed());
    qmp.on("closed", () => this.close());
    void this.findOut();
  }

  private close(): void {
    this.closed = true;
    clearTimeout(this.waiting);
  }

  private async failed(error: BlockIoError): Promise<void> {
    const image = this.imageOf(error) ?? (await this.imageBehind(error["node-name"]));
    const name = image ?? error["node-name"] ?? error.device ?? "a disk";
    const why = error.nospace === true ? "there is no space left" : (error.reason ?? "QEMU gives no reason");
    const what = `a ${error.operation} of the VM's to ${name} has failed: ${why}`;
    if (error.action !== "stop") {
      const todo = /quota/i.test(why)
        ? "raise the quota there: to QEMU one that is used up is a broken disk, not a full one, so the VM did not wait"
        : "look at this host's disk";
      this.tell(
        `${what}. The guest ${error.action === "ignore" ? "is not told" : "is told of an I/O error"}; ${todo}`,
      );
      return;
    }
    const free = image === undefined ? undefined : await this.free(image);
    if (this.closed) return;
    const room =
      error.nospace === true && free !== undefined
        ? `; its file system has ${(free / MIB).toFixed(1)} MiB left. Make room: it then goes on by itself, or at once with the order \`resume\``
        : "; it is tried again and again. Look at this host's disk";
    // QEMU tells of each request: that one is being waited for is the same trouble, unless it comes after the
    // VM was to go on.
    if (this.waits) return;
    this.waits = true;
    clearTimeout(this.waiting);
    if (this.alarm.standing === undefined) this.alarm.raise(`the VM stands still: ${what}${room}`, "error");
    this.waitMs = Math.min(2 * this.waitMs || (this.options.firstMs ?? FIRST_MS), LONGEST_MS);
    this.again(image, error.nospace === true);
  }

  /** A VM that this host has taken over may have met a full file system before anybody listened. */
  private async findOut(): Promise<void> {
    try {
      const { status } = await this.options.qmp.execute<{ status: string }>("query-status");
      if (status !== "io-error") return;
      for (const one of await this.options.qmp.execute<readonly BlockDevice[]>("query-block")) {
        const io = one["io-status"];
        if (io !== "nospace" && io !== "failed") continue;
        const at = { "node-name": one.inserted?.["node-name"] ?? "", "qom-path": one.qdev ?? "" };
        await this.failed({ ...at, operation: "request", action: "stop", nospace: io === "nospace" });
      }
    } catch (error) {
      // Of its end others tell.
      if (!this.closed)
        this.options.log.warn(`asking QEMU for its disks' errors: ${(error as Error).message}`);
    }
  }

  /**
   * Its operator did not wait for us. QEMU may say it of a stop that is still to come, too: so it is looked
   * at again.
   */
  private resumed(): void {
    if (!this.waits) return;
    this.waits = false;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.perhapsOver(), this.waitMs);
    this.waiting.unref();
  }

  /** Has the VM go on when that may help; if it does not, QEMU says so with another event. */
  private again(image: string | undefined, nospace: boolean): void {
    this.waiting = setTimeout(async () => {
      const free = nospace && image !== undefined ? await this.free(image) : undefined;
      if (this.closed) return;
      if (free !== undefined && free < ENOUGH_BYTES) {
        this.again(image, nospace);
        return;
      }
      this.waits = false;
      await this.goOn();
    }, this.waitMs);
    this.waiting.unref();
  }

  private async goOn(): Promise<void> {
    const { log, qmp, standsStill } = this.options;
    try {
      // Its operator may have seen to it, or the VM has gone to the other host.
      if (standsStill()) await qmp.execute("cont");
    } catch (error) {
      log.warn(`letting the VM run on after a disk's error: ${(error as Error).message}`);
    }
    // Meanwhile another error has been told, and that is waited for.
    if (this.waits || this.closed) return;
    this.waiting = setTimeout(() => this.perhapsOver(), this.waitMs);
    this.waiting.unref();
  }

  private perhapsOver(): void {
    if (this.options.standsStill()) {
      this.waitMs = Math.min(2 * this.waitMs, LONGEST_MS);
      void this.goOn();
      return;
    }
    this.waitMs = 0;
    this.alarm.lower("the VM runs on: its disks take what it writes");
  }

  private tell(text: string): void {
    const now = performance.now();
    if (now - (this.toldMs.get(text) ?? Number.NEGATIVE_INFINITY) < TELL_EVERY_MS) return;
    this.toldMs.set(text, now);
    const { control, log } = this.options;
    log.error(text);
    control.publish({ kind: "report", level: "error", text });
  }

  /** The nodes of `vm.disks` are `disk0` and so on, their devices `vdisk0`. */
  private imageOf({ "node-name": node = "", "qom-path": path = "" }: BlockIoError): string | undefined {
    const number = /^disk(\d+)/.exec(node)?.[1] ?? /\/vdisk(\d+)\b/.exec(path)?.[1];
    return number === undefined ? undefined : this.options.disks[Number(number)]?.image;
  }

  /**
   * While a disk is mirrored its uppermost node has a name of QEMU's own; it is called after the file below
   * it.
   */
  private async imageBehind(name: string | undefined): Promise<string | undefined> {
    const { disks, qmp } = this.options;
    if (disks.length === 1) return disks[0]!.image;
    try {
      const nodes = await qmp.execute<readonly BlockNode[]>("query-named-block-nodes", { flat: true });
      const file = nodes.find((node) => node["node-name"] === name)?.file;
      return disks.find(({ image }) => file?.includes(image))?.image;
    } catch {
      // It is told of with the name that there is.
      return undefined;
    }
  }

  /** Undefined where it cannot be told, as of a block device. */
  private async free(image: string): Promise<number | undefined> {
    try {
      return await (this.options.freeBytes ?? freeBytes)(image);
    } catch {
      return undefined;
    }
  }
}

async function freeBytes(image: string): Promise<number> {
  const { bavail, bsize } = await promisify(statfs)(image);
  return bavail * bsize;
}
