/**
 * The RAM file of a VM that was taken over keeps all of its space. A balloon that grows and a guest that
 * reports its free pages have QEMU punch holes into it. Others may fill the file system then, and the guest's
 * next touch of such a page would be the end of the only copy (SIGBUS). So what was given back is soon taken
 * again.
 */
import { dirname } from "node:path";
import { reserveAgain } from "../../memory/ram-file.ts";
import { Alarm, type Told } from "../watch/alarm.ts";

const EVERY_MS = 5_000;
const MIB = 2 ** 20;

export class RamRoom {
  private readonly told: Told;
  private readonly alarm: Alarm;
  private readonly path: string;
  private timer: NodeJS.Timeout | undefined;
  private said = false;
  private over = false;

  constructor(told: Told, path: string) {
    this.told = told;
    this.path = path;
    this.alarm = new Alarm(told, "memory");
  }

  begin(): void {
    this.timer = setTimeout(() => void this.look().then(() => this.over || this.begin()), EVERY_MS);
    this.timer.unref();
  }

  close(): void {
    this.over = true;
    clearTimeout(this.timer);
  }

  /** Never rejects. */
  async look(): Promise<void> {
    const { alarm, path, told } = this;
    try {
      const missing = await reserveAgain(path);
      if (this.over) return;
      alarm.lower(`all of ${path} has its space again`);
      if (missing > 0 && !this.said) {
        this.said = true;
        told.log.info(
          `the guest has given back ${(missing / MIB).toFixed(1)} MiB of its memory, whose space was reserved again: a VM that was taken over keeps it`,
        );
      }
    } catch (error) {
      if (this.over) return;
      alarm.raise(
        `the VM would die if its guest used again what it has given back of its memory: ${(error as Error).message}. Make room in ${dirname(path)}; leave the balloon as it is until then`,
        "error",
      );
    }
  }
}
