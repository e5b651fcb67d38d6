/**
 * Something that the VM does not need now is missing: told when it is found, when its reason changes, and
 * when it is back.
 */
import type { AlarmTopic } from "../control/events.ts";
import type { ControlSocket } from "../control/socket.ts";
import type { Log } from "../log.ts";

export interface Told {
  readonly log: Log;
  readonly control: Pick<ControlSocket, "publish">;
}

export class Alarm {
  private readonly told: Told;
  private readonly about: AlarmTopic;
  private reason: string | undefined;

  constructor(told: Told, about: AlarmTopic) {
    this.told = told;
    this.about = about;
  }

  /** Why it stands, as it was told last. */
  get standing(): string | undefined {
    return this.reason;
  }

  /** Says nothing if it stands for the same reason. */
  raise(text: string, level: "warn" | "error" = "warn"): void {
    if (this.reason === text) return;
    this.reason = text;
    this.tell(true, level, text);
  }

  /** Says nothing if it does not stand. */
  lower(text: string): void {
    if (this.reason === undefined) return;
    this.reason = undefined;
    this.tell(false, "info", text);
  }

  private tell(raised: boolean, level: "info" | "warn" | "error", text: string): void {
    const { control, log } = this.told;
    log[level](text);
    control.publish({ kind: "alarm", about: this.about, raised, text });
  }
}
