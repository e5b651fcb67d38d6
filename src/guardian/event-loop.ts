/**
 * A guardian's loop over its core. What happens is fed as an event; the core's step says what the state is
 * then, and what to do: the effects.
 *
 * The duties of whoever carries effects out, all of them:
 *
 * 1. One event at a time, in the order in which they were fed. What is fed while an event is dealt with, by
 * an effect for example, waits until that is done. It is still dealt with in the same turn of Node's loop,
 * before the outermost `feed` returns. Who feeds from outside so sees what came of it.
 * 2. Effects are begun in the order given, and all effects of an event before the next event is stepped.
 * While they are, the state is that after the step.
 *  3. An effect that takes time is begun and not waited for. What comes of it is an event, or a failure.
 * 4. An effect that throws, or whose promise rejects, has failed: `failed` is told, once. Effects behind it
 * are carried out all the same, but not behind a broken invariant. What a failure means is said in
 * core/effect-failures.ts and nowhere else; `failed` must not throw.
 * 5. `stepped` is called after the effects of each event. It may be called again for the same state, should
 * it have failed.
 * 6. What effects themselves promise stands at their types in core/*-protocol.ts (output commit above all),
 * and is asserted once more where they are carried out.
 */
import { InvariantBroken, type Step } from "../core/transition.ts";
import { monotonicMs } from "../os/monotonic.ts";

/** What has failed. */
export type Failed<Event, Effect> =
  | { readonly duty: "step"; readonly event: Event }
  /** `again` carries it out once more, and rejects if it fails. */
  | { readonly duty: "effect"; readonly effect: Effect; readonly again: () => Promise<void> }
  | { readonly duty: "stepped"; readonly again: () => Promise<void> };

export interface Machine<State, Event, Effect> {
  step(state: State, event: Event): Step<State, Effect>;
  /** @param heardMs when what has led to it was fed, by CLOCK_BOOTTIME */
  carryOut(effect: Effect, heardMs: number): void | Promise<void>;
  stepped(): void;
  failed(what: Failed<Event, Effect>, error: Error): void;
}

export class EventLoop<State, Event, Effect> {
  private readonly machine: Machine<State, Event, Effect>;
  private now: State;
  private readonly waiting: { readonly event: Event; readonly heardMs: number }[] = [];
  private busy = false;

  constructor(start: State, machine: Machine<State, Event, Effect>) {
    this.now = start;
    this.machine = machine;
  }

  get state(): State {
    return this.now;
  }

  feed(event: Event): void {
    this.waiting.push({ event, heardMs: monotonicMs() });
    if (this.busy) return;
    this.busy = true;
    try {
      for (let next = this.waiting.shift(); next !== undefined; next = this.waiting.shift())
        this.take(next.event, next.heardMs);
    } finally {
      this.busy = false;
    }
  }

  private take(event: Event, heardMs: number): void {
    const { machine } = this;
    let effects: readonly Effect[];
    try {
      const step = machine.step(this.now, event);
      this.now = step.state;
      effects = step.effects;
    } catch (error) {
      machine.failed({ duty: "step", event }, error as Error);
      return;
    }
    for (const effect of effects) if (!this.begin(effect, heardMs)) break;
    try {
      machine.stepped();
    } catch (error) {
      machine.failed({ duty: "stepped", again: async () => machine.stepped() }, error as Error);
    }
  }

  /** False: those behind it must not be carried out. */
  private begin(effect: Effect, heardMs: number): boolean {
    const { machine } = this;
    const again = async () => await machine.carryOut(effect, heardMs);
    try {
      const carried = machine.carryOut(effect, heardMs);
      carried?.catch((error: Error) => machine.failed({ duty: "effect", effect, again }, error));
      return true;
    } catch (error) {
      machine.failed({ duty: "effect", effect, again }, error as Error);
      return !(error instanceof InvariantBroken);
    }
  }
}
