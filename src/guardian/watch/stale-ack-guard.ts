/**
 * Whether what is heard of the backup may be old: because the connection that brought it was silent for a
 * while, or because this process stood still and reads only now what came long ago. It is asked when
 * something is heard, before that is acted upon, and looks at the clock often in between.
 *
 * Each connection counts for itself: that the backup was heard just now on one path says nothing of the age
 * of what comes out of another one that stood still. The backup says nothing anew once it has given this host
 * up, so what a connection brings in time was said in time.
 */
/**
 * So long after it was heard, the word of a backup is old: it may have given this host up since. Not so
 * little that an ordinary tick could be late.
 */
export function lateMs(detectionMs: number): number {
  return Math.max(detectionMs / 2, 60);
}

export interface Heard {
  /** When it last brought anything. */
  readonly lastHeardMs: number;
}

export class StaleAckGuard {
  private readonly limitMs: number;
  private lookedMs: number;
  /** Everything that is heard next is late, and what these bring. */
  private late = false;
  private silent = new WeakSet<Heard>();

  /** @param detectionMs the backup may give this host up after it; half of it is late */
  constructor(detectionMs: number, nowMs: number) {
    this.limitMs = lateMs(detectionMs);
    this.lookedMs = nowMs;
  }

  /** To be called several times in the detection time. @param connections to the backup that are there now */
  look(nowMs: number, connections: readonly Heard[]): void {
    if (this.stoodStill(nowMs)) this.late = true;
    for (const one of connections) if (nowMs - one.lastHeardMs > this.limitMs) this.silent.add(one);
    this.lookedMs = nowMs;
  }

  /**
   * What is heard now, by this connection, may have been said before the backup gave this host up. Once for
   * each time, on all of them: who hears of it trusts nothing that was said before now, however it comes.
   */
  heardLate(nowMs: number, by: Heard | undefined): boolean {
    const late = this.late || this.stoodStill(nowMs) || (by !== undefined && this.silent.has(by));
    this.lookedMs = nowMs;
    if (!late) return false;
    this.late = false;
    this.silent = new WeakSet();
    return true;
  }

  private stoodStill(nowMs: number): boolean {
    return nowMs - this.lookedMs > this.limitMs;
  }
}
