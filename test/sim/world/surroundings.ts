/** What each part of the made-up world may ask of the whole. */
import type { Random } from "./random.ts";
import type { SimProcess, Time } from "./time.ts";

/** When what was heard last on a connection was sent, and when it came: for whoever judges a late word. */
export interface Heard {
  sentAtMs: number;
  arrivedAtMs: number;
}

/** A host, as far as others know it. */
export interface Place {
  readonly name: string;
  /** It has power. */
  readonly on: boolean;
  /** What its guardian heard last of the other. */
  readonly heard: Heard | undefined;
  /** Somebody has told its guardian to end, and the VM with it. */
  readonly endAsked: boolean;
  /** Its addresses for replication are gone. */
  readonly addressGone: boolean;
}

export interface Surroundings {
  readonly time: Time;
  readonly random: Random;
  host(name: string): Place;
  /** It has power; a stranger always has. */
  isOn(host: string): boolean;
  hostOf(process: SimProcess): Place;
  /** Whether it is to this process that the present event happens. */
  isRunning(process: SimProcess): boolean;
  nextNumber(): number;
  /** A line of the transcript. */
  note(who: string, text: string): void;
  count(what: string): void;
  /** Somebody has come to a point at which a fault may wait. */
  step(host: string, step: string): void;
  hears(host: string, heard: Heard): void;
  violated(invariant: string, text: string): void;
}
