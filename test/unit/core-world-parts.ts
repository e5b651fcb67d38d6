// What lies between the two hosts of the made-up world: the link, and the arbiter. And where the capture of
// its VM stands.

export type VmCapture =
  | "none"
  | "first-pass"
  | "paused"
  | "running"
  | "requested"
  | "busy"
  | "held"
  | "broken"
  | "broken-paused";

export type ToBackup =
  | { readonly type: "part"; readonly epoch: number }
  | { readonly type: "end"; readonly epoch: number }
  | { readonly type: "handover"; readonly epoch: number }
  | { readonly type: "goodbye" }
  | { readonly type: "session" };
export type ToPrimary =
  | { readonly type: "ack"; readonly epoch: number }
  | { readonly type: "handover-refused"; readonly stoodDown: boolean; readonly generation: number }
  | { readonly type: "unable" }
  | { readonly type: "welcome" }
  | { readonly type: "goodbye-ok" }
  | { readonly type: "takeover" };

export interface Link {
  readonly toBackup: ToBackup[];
  readonly toPrimary: ToPrimary[];
  /** Nothing new gets in. What is under way may still arrive, until the receiver sees the end. */
  cut: boolean;
  primaryUses: boolean;
  backupUses: boolean;
}

/** Grants each generation to the first who asks for it. Who asks is in `asks` until it is answered. */
export class WorldArbiter {
  readonly asks: { primary?: number; backup?: number } = {};
  private generation = 1;
  private readonly winners = new Map<number, "primary" | "backup">();

  winner(generation: number): "primary" | "backup" | undefined {
    return this.winners.get(generation);
  }

  answer(who: "primary" | "backup"): { type: "verdict"; granted: boolean; generation: number } {
    const granted = this.asks[who] === this.generation;
    if (granted) this.winners.set(this.generation++, who);
    delete this.asks[who];
    return { type: "verdict", granted, generation: this.generation };
  }
}
