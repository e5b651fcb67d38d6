/** In place of `src/guardian/primary/statistics.ts`: nothing is measured here. */
export class PrimaryStatistics {
  reset(): void {}
  ended(): void {}
  paused(): void {}
  resumed(): void {}
  captured(): void {}
  summary(): Record<string, unknown> {
    return {};
  }
  samples(): Record<string, unknown> {
    return {};
  }
}
