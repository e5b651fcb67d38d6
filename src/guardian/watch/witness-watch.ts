/**
 * Whether the witness can be reached, and could take a claim: one that can be read and not written is none.
 * It decides nothing: losing the witness alone changes nothing. But who has lost it lives on one failure less
 * than they believe, so it is asked now and then, and its loss and return are told.
 */
import type { Claim, Verdict } from "../../core/arbiter.ts";
import type { Generation } from "../../core/words.ts";
import { openWitness, type WitnessChoice } from "../../witness/open-witness.ts";
import type { CheckedArbiter } from "../../witness/witness.ts";
import type { ControlSocket } from "../control/socket.ts";
import type { WitnessStatus } from "../control/status.ts";
import type { Log } from "../log.ts";

export interface WitnessWatchOptions {
  readonly choice: WitnessChoice;
  readonly vm: string;
  /** This host's name. */
  readonly host: string;
  readonly log: Log;
  readonly control: Pick<ControlSocket, "publish">;
  /** From one look to the next. */
  readonly everyMs: number;
}

/** No kind of witness needs so long for one try. */
const GRACE_MS = 6_000;

export class WitnessWatch {
  private readonly arbiter: CheckedArbiter;
  private readonly options: WitnessWatchOptions;
  private reachable: boolean | undefined;
  private since = new Date();
  private timer: NodeJS.Timeout | undefined;
  private readonly closing = new AbortController();

  constructor(options: WitnessWatchOptions) {
    this.options = options;
    this.arbiter = openWitness(options.choice, {
      warn: (text) => options.log.warn(text),
      unreachable: (text) => this.found(false, text),
      reachable: (text) => this.found(true, text),
    });
  }

  /** For logs. */
  get name(): string {
    return this.arbiter.name;
  }

  /** May this host run the VM alone, the pair being at `generation`? Settles only with a definite word. */
  ask(generation: Generation, signal?: AbortSignal): Promise<Verdict> {
    return this.arbiter.ask(this.options.vm, generation, this.options.host, signal);
  }

  /** The newest claim there is of the VM. */
  latest(signal?: AbortSignal): Promise<Claim | undefined> {
    return this.arbiter.latest(this.options.vm, signal);
  }

  get status(): WitnessStatus {
    const { reachable, since } = this;
    const { name } = this.arbiter;
    return reachable === undefined ? { name } : { name, reachable, since: since.toISOString() };
  }

  /** Looks at once, and then again and again. There is nothing to see where there is no witness. */
  begin(): void {
    if (this.options.choice.kind !== "none") void this.lookAgain();
  }

  close(): void {
    clearTimeout(this.timer);
    this.closing.abort();
    this.arbiter.close();
  }

  private async lookAgain(): Promise<void> {
    await this.look();
    if (this.closing.signal.aborted) return;
    this.timer = setTimeout(() => void this.lookAgain(), this.options.everyMs);
    this.timer.unref();
  }

  /** One look. Never rejects. */
  async look(): Promise<void> {
    const { name } = this.arbiter;
    const late = AbortSignal.timeout(GRACE_MS);
    try {
      await this.arbiter.check(this.options.vm, AbortSignal.any([this.closing.signal, late]));
      this.found(true, `${name} answers and takes claims`);
    } catch {
      // One that gives no answer of any kind is told of here; of another, `unreachable` has said why.
      if (late.aborted) this.found(false, `${name} gives no answer within ${GRACE_MS} ms`);
    }
  }

  private found(reachable: boolean, text: string): void {
    if (this.reachable === reachable) return;
    const first = this.reachable === undefined;
    this.reachable = reachable;
    this.since = new Date();
    const { control, log } = this.options;
    const what = reachable
      ? text
      : `${text}. The VM runs on as it is, but should a host or the link fail now, it stands still until the witness answers`;
    log[reachable ? "info" : "warn"](what);
    if (first && reachable) return;
    control.publish({ kind: "alarm", about: "witness", raised: !reachable, text: what });
  }
}
