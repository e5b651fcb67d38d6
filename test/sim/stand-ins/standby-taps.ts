/** In place of `src/net/standby-taps.ts`: taps that the simulator does not have. */
export class StandbyTaps {
  belongTo(): void {}
  park(): void {}
  open(): void {}
  loaded(): void {}
  deliver(): void {}
  restore(): void {}
}
