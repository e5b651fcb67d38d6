/** Whether this host can listen on its addresses: an alarm stands while one of them cannot be had. */
import type { AddressEvent } from "../../link/listen.ts";
import { Alarm, type Told } from "./alarm.ts";

export class AddressWatch {
  private readonly alarm: Alarm;
  private readonly missing = new Map<number, string>();

  constructor(told: Told) {
    this.alarm = new Alarm(told, "listen");
  }

  readonly told = ({ path, reason, up }: AddressEvent): void => {
    if (up) this.missing.delete(path);
    else this.missing.set(path, reason);
    if (this.missing.size === 0) this.alarm.lower("this host can be called at all of its addresses again");
    else
      this.alarm.raise(
        `${[...this.missing.values()].join("; ")}. It is tried again; until then the other host cannot call this one there`,
      );
  };
}
