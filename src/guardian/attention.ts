/**
 * Whether what is heard of the backup may be old: because nothing was heard of it for a while, or because this process stood still and reads only now what
 * came long ago. It is asked when something is heard, before that is acted upon, and looks at the clock often in between.
 */
/** So long after it was heard, the word of a backup is old: it may have given this host up since. Not so little that an ordinary tick could be late. */
export function lateMs(detectionMs: number): number {
  return Math.max(detectionMs / 2, 60);
}

export class Attention {
  private readonly limitMs: number;
  private lookedMs: number;
  private late = false;

  /** @param detectionMs the backup may give this host up after it; half of it is late */
  constructor(detectionMs: number, nowMs: number) {
    this.limitMs = lateMs(detectionMs);
    this.lookedMs = nowMs;
  }

  /** To be called several times in the detection time. @param heardMs when anything was last heard; undefined without a link */
  look(nowMs: number, heardMs: number | undefined): void {
    if (this.stoodStill(nowMs) || (heardMs !== undefined && nowMs - heardMs > this.limitMs)) this.late = true;
    this.lookedMs = nowMs;
  }

  /** What is heard now may have been said before the backup gave this host up. Once for each time. */
  heardLate(nowMs: number): boolean {
    const late = this.late || this.stoodStill(nowMs);
    this.late = false;
    this.lookedMs = nowMs;
    return late;
  }

  private stoodStill(nowMs: number): boolean {
    return nowMs - this.lookedMs > this.limitMs;
  }
}
