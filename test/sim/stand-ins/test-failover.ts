/** In place of `src/guardian/backup/test-failover.ts`: clones are not in this world. */
export class TestFailover {
  async sweep(): Promise<void> {}
  async order(): Promise<void> {}
  drop(): void {}
}
