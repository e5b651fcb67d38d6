/** In place of `src/net/standby-taps.ts`: taps that are put into their bridge and taken out cost time, and nothing else here. */
import { current } from "../world/time.ts";

export class StandbyTaps {
  park(): Promise<void> {
    return current().later(5);
  }
  open(): Promise<void> {
    return current().later(5);
  }
  loaded(): void {}
  deliver(): void {}
  restore(): Promise<void> {
    return current().later(5);
  }
}
