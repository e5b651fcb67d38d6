/**
 * Looks whether this process has file descriptors left. Without one neither the other host nor an operator
 * gets in: the kernel's answer to them is an end of their connection, and this process is told nothing.
 */
import { mostDescriptors, usedDescriptors } from "../../os/descriptors.ts";
import { whatToDo } from "../../os/file-trouble.ts";
import { Alarm, type Told } from "./alarm.ts";

const LOOK_EVERY_MS = 2_000;
/** A protection with its threads, a session and some callers take fewer. */
const ROOM = 64;

export class DescriptorWatch {
  private readonly alarm: Alarm;
  private readonly limit = mostDescriptors();
  private readonly everyMs: number;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(told: Told, everyMs = LOOK_EVERY_MS) {
    this.alarm = new Alarm(told, "guardian");
    this.everyMs = everyMs;
  }

  begin(): void {
    void this.look();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
  }

  private async look(): Promise<void> {
    try {
      this.found(await usedDescriptors());
    } catch (error) {
      const text = `no file can be opened here: ${(error as Error).message}`;
      this.say(text, whatToDo(error as Error));
    }
    if (this.closed) return;
    this.timer = setTimeout(() => void this.look(), this.everyMs);
    this.timer.unref();
  }

  private found(used: number): void {
    if (this.limit - used >= ROOM) this.alarm.lower("this guardian has file descriptors left again");
    // The number changes all the time, and is told when the alarm is raised.
    else if (this.alarm.standing === undefined) {
      const text = `${used} of the ${this.limit} file descriptors that this guardian may have are in use`;
      this.say(text, whatToDo(Object.assign(new Error(), { code: "EMFILE" })));
    }
  }

  private say(what: string, todo: string): void {
    this.alarm.raise(`${what}: without one neither the other host nor an operator gets in; ${todo}`, "error");
  }
}
