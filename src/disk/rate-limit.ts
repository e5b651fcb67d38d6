/** Keeps a stream of work below so many bytes a second. */

/** What may go at once after a rest. */
const BURST_SECONDS = 0.1;

export class RateLimit {
  private readonly bytesPerSecond: number;
  /** When everything that was let through would be through at the limit. */
  private clearAtMs = performance.now();

  /** @param bytesPerSecond undefined: no limit */
  constructor(bytesPerSecond: number | undefined) {
    this.bytesPerSecond = bytesPerSecond ?? Number.POSITIVE_INFINITY;
  }

  /** Resolves when `bytes` more may go. */
  async take(bytes: number): Promise<void> {
    const now = performance.now();
    this.clearAtMs =
      Math.max(this.clearAtMs, now - BURST_SECONDS * 1000) + (bytes / this.bytesPerSecond) * 1000;
    const waitMs = this.clearAtMs - now;
    if (waitMs > 0) await new Promise((go) => setTimeout(go, waitMs));
  }
}
