/**
 * In place of `src/net/guest-input.ts`: what clients send to a VM that is paused is lost, as on any network.
 */
export class GuestInput {
  take(): never[] {
    return [];
  }
  put(): void {}
  close(): void {}
}

export class KeptInput {
  keep(): void {}
  take(): never[] {
    return [];
  }
}
