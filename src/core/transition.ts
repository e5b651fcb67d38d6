/**
 * What a step of a state machine gives back, and what it throws when the event cannot happen in that state.
 */

export interface Step<State, Effect> {
  readonly state: State;
  /** To be carried out in this order. */
  readonly effects: readonly Effect[];
}

/** A sentence for the log and whoever gave an order. */
export interface Report {
  readonly type: "report";
  readonly level: "info" | "warn" | "error";
  readonly text: string;
}

export function info(text: string): Report {
  return { type: "report", level: "info", text };
}

export function warn(text: string): Report {
  return { type: "report", level: "warn", text };
}

export function error(text: string): Report {
  return { type: "report", level: "error", text };
}

/** Our bug: whoever feeds the core let something happen that the protocol rules out. */
export class IllegalTransition extends Error {
  constructor(machine: string, phase: string, event: string, detail = "") {
    super(`${machine} in state "${phase}" cannot take "${event}"${detail === "" ? "" : `: ${detail}`}`);
    this.name = "IllegalTransition";
  }
}

/** An invariant of the protocol would be broken by the next effect. Nothing may go on after this. */
export class InvariantBroken extends Error {
  constructor(invariant: "I1" | "I2" | "I3" | "I4" | "I5" | "I6" | "I7", detail: string) {
    super(`${invariant} would be broken: ${detail}`);
    this.name = "InvariantBroken";
  }
}
