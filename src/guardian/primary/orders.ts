/**
 * The orders that a primary guardian takes (docs/specs/control.md): each asks core for something and waits
 * until it is so, or will not be.
 */

import type { PrimaryEvent, PrimaryState } from "../../core/primary-protocol.ts";
import type { Handlers } from "../control/orders.ts";
import { OrderRefused } from "../control/refusal.ts";
import type { Caller } from "../control/socket.ts";
import type { RunningVm } from "./running-vm.ts";

/** What orders need of the guardian. */
export interface Ordered {
  readonly state: PrimaryState;
  feed(event: PrimaryEvent): void;
  /** Looks at the running QEMU; throws what stands in the way of protection. */
  preflight(): Promise<void>;
  kill(): void;
  /** Protection is wanted no more. */
  wantNoMore(): void;
  /** Whether the protection that is under way was asked for by nobody but this guardian itself. */
  readonly triesByItself: boolean;
}

export class PrimaryOrders {
  private readonly guardian: Ordered;
  private readonly waiting = new Set<() => void>();
  private lastWarning: string | undefined;
  private holder: Caller | undefined;
  /** Grows with every `stop`: what was asked for before it is not begun after it. */
  private stops = 0;

  constructor(guardian: Ordered) {
    this.guardian = guardian;
  }

  /** As the control socket takes them. @param refuseToMove throws if the VM cannot be moved by plan */
  table(refuseToMove: () => void, vm: Pick<RunningVm, "resume">) {
    return {
      protect: () => this.protect(),
      stop: () => this.stop(),
      switchover: () => {
        refuseToMove();
        return this.switchover();
      },
      hold: ({ atEpoch = 0 }, caller) => this.hold(atEpoch, caller),
      proceed: () => this.proceed(),
      resume: () => this.resume(vm),
      quit: () => this.quit(),
    } satisfies Handlers;
  }

  /** To be called after every step of core. */
  stepped(): void {
    if (this.guardian.state.phase !== "protected") this.holder = undefined;
    for (const look of this.waiting) look();
  }

  /** Something went wrong; an order that fails now fails because of it. */
  warned(text: string): void {
    this.lastWarning = text;
  }

  /**
   * Resolves once checkpoint 0 is acknowledged: from then on the VM survives this host. A protection that has
   * begun already is waited for; if it was the guardian's own try and comes to nothing, perhaps since the
   * backup was not there yet, there is another one.
   */
  async protect(): Promise<void> {
    const { stops } = this;
    while (await this.joins()) {
      const { triesByItself } = this.guardian;
      try {
        await this.untilProtected();
        return;
      } catch (error) {
        if (!triesByItself || stops !== this.stops) throw error;
      }
    }
    await this.begin(stops);
  }

  /**
   * One try to protect the VM, if nothing else is under way. @param stops how many there had been when it was
   * asked for
   */
  async begin(stops = this.stops): Promise<void> {
    this.expectPhase("unprotected");
    await this.guardian.preflight();
    if (stops !== this.stops)
      throw new OrderRefused("failed", "protection was stopped, as asked, before it had begun");
    // Somebody else was quicker: then what that comes to is our answer.
    if (this.guardian.state.phase === "unprotected") {
      this.lastWarning = undefined;
      this.guardian.feed({ type: "protect-asked" });
    }
    await this.untilProtected();
  }

  async stop(): Promise<void> {
    if (this.guardian.state.phase === "superseded")
      throw new OrderRefused("wrong-state", "the VM belongs to the backup now");
    this.stops++;
    this.guardian.wantNoMore();
    this.guardian.feed({ type: "stop-asked" });
    await this.becomes(
      (state) => state.phase === "unprotected",
      (state) => state.phase === "superseded",
    );
  }

  /**
   * Gives the VM to the backup, both hosts being well. Resolves when it runs there; the VM here is gone then.
   */
  async switchover(): Promise<void> {
    this.expectPhase("protected");
    this.lastWarning = undefined;
    this.guardian.feed({ type: "switchover-asked" });
    const { state } = this.guardian;
    if (state.phase === "protected" && !state.switchover)
      throw new OrderRefused("wrong-state", this.lastWarning ?? "the VM is not to be moved now");
    await this.becomes(
      (state) => state.phase === "superseded",
      (state) =>
        ["unprotected", "ending", "leaving", "arbitrating"].includes(state.phase) ||
        (state.phase === "protected" && !state.switchover),
    );
  }

  /**
   * Keeps the VM paused at its next checkpoint from `atEpoch` on, until the same caller says `proceed` or
   * leaves (I5). Resolves when that checkpoint is acknowledged.
   */
  async hold(atEpoch: number, caller: Caller): Promise<{ epoch: number }> {
    this.expectPhase("protected");
    if (this.holder !== undefined) throw new OrderRefused("already-held", "another hold has not ended yet");
    this.holder = caller;
    caller.onLeft(() => {
      if (this.holder === caller) this.proceed();
    });
    this.guardian.feed({ type: "hold-asked", atEpoch });
    try {
      const state = await this.becomes(
        (state) =>
          state.phase === "protected" && state.capture === "held" && state.acked === state.running - 1,
        (state) => state.phase !== "protected" || this.holder !== caller,
      );
      return { epoch: state.phase === "protected" ? state.acked : Number.NaN };
    } catch (error) {
      if (this.holder === caller) this.holder = undefined;
      throw error;
    }
  }

  /** Has the VM run on that its operator, its disk or its watchdog has stopped. */
  async resume(vm: Pick<RunningVm, "resume">): Promise<void> {
    if (["handing-over", "superseded"].includes(this.guardian.state.phase))
      throw new OrderRefused("wrong-state", "the VM belongs to the backup now, or is about to");
    await vm.resume();
  }

  proceed(): void {
    this.holder = undefined;
    if (this.guardian.state.phase === "protected") this.guardian.feed({ type: "proceed-asked" });
    this.stepped();
  }

  /** Ends protection, if there is any, and then the VM. */
  async quit(): Promise<void> {
    const { phase } = this.guardian.state;
    if (phase !== "unprotected" && phase !== "superseded") await this.stop();
    this.guardian.kill();
  }

  /** Resolves when the phase is another one. */
  async leaves(phase: PrimaryState["phase"]): Promise<void> {
    await this.becomes(
      (state) => state.phase !== phase,
      () => false,
    );
  }

  private untilProtected(): Promise<PrimaryState> {
    return this.becomes(
      (state) => state.phase === "protected" && state.acked >= 0,
      (state) => ["unprotected", "ending", "superseded"].includes(state.phase),
    );
  }

  /** Whether a protection is there, or on its way. One that is being taken down is waited for. */
  private async joins(): Promise<boolean> {
    const { phase } = await this.becomes(
      (state) => state.phase !== "ending",
      () => false,
    );
    return ["connecting", "syncing", "protected"].includes(phase);
  }

  private expectPhase(phase: PrimaryState["phase"]): void {
    const now = this.guardian.state.phase;
    if (now !== phase)
      throw new OrderRefused("wrong-state", `the VM is ${now}; this needs it to be ${phase}`);
  }

  private becomes(
    wanted: (state: PrimaryState) => boolean,
    failed: (state: PrimaryState) => boolean,
  ): Promise<PrimaryState> {
    const { promise, resolve, reject } = Promise.withResolvers<PrimaryState>();
    const look = () => {
      const { state } = this.guardian;
      if (wanted(state)) resolve(state);
      else if (failed(state))
        reject(new OrderRefused("failed", this.lastWarning ?? `the VM is ${state.phase}`));
      else return;
      this.waiting.delete(look);
    };
    this.waiting.add(look);
    look();
    return promise;
  }
}
