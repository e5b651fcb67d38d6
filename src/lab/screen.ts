/** The demo's live view: one screen on a terminal, a line a second elsewhere. */

export interface View {
  readonly phase: string;
  readonly backupPhase: string;
  readonly epoch: number;
  readonly pauseMs: number;
  readonly pauseMedianMs: number;
  readonly checkpointsPerSecond: number;
  readonly dirtyPages: number;
  readonly heldBytes: number;
  readonly clientRate: number;
  readonly clientAcked: number;
  readonly ramChecks: number;
  readonly ramMismatches: number;
}

const NOTES_SHOWN = 8;
const HISTORY = 60;
const BARS = "▁▂▃▄▅▆▇█";

export class Screen {
  title = "Remus demo";
  aliveA = true;
  private readonly live = process.stdout.isTTY === true;
  private readonly notes: string[] = [];
  private readonly pauses: number[] = [];
  private readonly startedMs = performance.now();
  private shownMs = Number.NEGATIVE_INFINITY;
  private drawn = false;
  private last: View | undefined;

  /** A stage of the demo. */
  step(text: string): void {
    this.note(text);
  }

  /** An event worth a line. */
  note(text: string): void {
    const seconds = ((performance.now() - this.startedMs) / 1000).toFixed(1).padStart(5);
    const line = `${seconds} s  ${text}`;
    this.notes.push(line);
    if (!this.live || !this.drawn) process.stdout.write(`${line}\n`);
    else this.draw();
  }

  show(view: View): void {
    this.last = view;
    this.pauses.push(view.pauseMs);
    if (this.pauses.length > HISTORY) this.pauses.shift();
    if (this.live) {
      this.draw();
    } else if (performance.now() - this.shownMs >= 1000) {
      this.shownMs = performance.now();
      process.stdout.write(`${lineOf(view)}\n`);
    }
  }

  end(): void {
    if (this.drawn) process.stdout.write("\n");
    this.drawn = false;
  }

  private draw(): void {
    const { last } = this;
    if (last === undefined) return;
    const ram =
      last.ramChecks === 0
        ? ""
        : `   RAM compared ${last.ramChecks} times, ${last.ramMismatches} differences`;
    const lines = [
      this.title,
      "",
      `  host A  ${this.aliveA ? last.phase : "DEAD"}`,
      `  host B  ${last.backupPhase}`,
      "",
      `  epoch       ${last.epoch}   ${last.checkpointsPerSecond.toFixed(1)} checkpoints/s`,
      `  pause       ${last.pauseMs.toFixed(1)} ms   median ${last.pauseMedianMs.toFixed(1)} ms   ${sparkline(this.pauses)}`,
      `  dirty       ${last.dirtyPages} pages`,
      `  held        ${last.heldBytes} bytes of output`,
      `  client      ${last.clientAcked} answers, ${last.clientRate.toFixed(0)}/s${ram}`,
      "",
      ...this.notes.slice(-NOTES_SHOWN).map((line) => line.slice(0, (process.stdout.columns ?? 80) - 1)),
    ];
    process.stdout.write(`\x1b[H\x1b[2J${lines.join("\n")}\n`);
    this.drawn = true;
  }
}

function lineOf(view: View): string {
  return (
    `         epoch ${view.epoch}, ${view.checkpointsPerSecond.toFixed(1)}/s, pause ${view.pauseMs.toFixed(1)} ms, ` +
    `${view.dirtyPages} dirty pages, ${view.heldBytes} bytes held, client ${view.clientRate.toFixed(0)}/s; ` +
    `A ${view.phase}, B ${view.backupPhase}`
  );
}

function sparkline(values: readonly number[]): string {
  const most = Math.max(...values, 1);
  return values.map((value) => BARS[Math.min(7, Math.floor((value / most) * 8))]).join("");
}
