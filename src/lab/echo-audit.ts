/**
 * Judges the answers of an echo guest (guest/echo.S) that one client asks, one request at a time, numbered 1,
 * 2, 3 and so on. Each tells which request the guest had answered before: the one before this one, or this
 * one, which was sent again since its answer did not come.
 */
export class EchoAudit {
  /** Answers by a guest that no longer knew of an answer which had come: it went back to an older state. */
  wentBack = 0;
  /** How many answers it did not know of. */
  lost = 0;
  /** Numbers that this client has not yet come to: somebody else asks, too. */
  repeated = 0;
  /** The highest number that was answered; 0 while there was none. */
  highest = 0;

  /** The first answer is taken as it comes: the guest may remember another client's requests. */
  answer(number: number, before: number): void {
    if (this.highest > 0 && before < number - 1) {
      this.wentBack += 1;
      this.lost += number - 1 - before;
    } else if (this.highest > 0 && before > number) {
      this.repeated += 1;
    }
    this.highest = Math.max(this.highest, number);
  }
}
