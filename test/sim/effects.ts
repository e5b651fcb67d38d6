/**
 * Effects that fail: the guardians' loop is as it is, but whoever carries an effect out for it may fail, at
 * once or a little later
 */
import { EventLoop } from "../../src/guardian/event-loop.ts";
import { theWorld } from "./world/present.ts";
import { current } from "./world/time.ts";

interface Effect {
  readonly type: string;
}

interface Inside {
  readonly state: { readonly phase: string };
  readonly machine: {
    step(state: unknown, event: unknown): unknown;
    carryOut(effect: Effect, heardMs: number): void | Promise<void>;
  };
  take(event: Effect, heardMs: number): void;
  begin(effect: Effect, heardMs: number): boolean;
}

/** These are not done when they have been begun. */
const TAKE_TIME: ReadonlySet<string> = new Set([
  "ask-arbiter",
  "begin-epochs",
  "connect",
  "end-capture",
  "release-all",
  "remind-hypervisor",
  "run-standby",
  "start-capture",
]);

/** A link that is not closed goes on to speak: the core calls what it says impossible. */
const CANNOT_FAIL: ReadonlySet<string> = new Set(["close-link"]);

/** To be called once. */
export function letEffectsFail(): void {
  const inside = EventLoop.prototype as unknown as Inside;
  const { begin, take } = inside;
  inside.take = function (this: Inside, event: Effect, heardMs: number): void {
    const world = theWorld();
    const host = world.hosts.get(world.hostOf(current()).name)!;
    const { step } = this.machine;
    if (host.failingStep && this.state.phase === "armed" && event.type === "checkpoint-whole") {
      host.failingStep = false;
      this.machine.step = () => {
        this.machine.step = step;
        throw new Error("a made-up error of a step");
      };
    }
    take.call(this, event, heardMs);
  };
  inside.begin = function (this: Inside, effect: Effect, heardMs: number): boolean {
    const world = theWorld();
    const host = world.hosts.get(world.hostOf(current()).name)!;
    const { failingEffect } = host;
    if (CANNOT_FAIL.has(effect.type)) return begin.call(this, effect, heardMs);
    if (failingEffect === undefined || (failingEffect.type ?? effect.type) !== effect.type)
      return begin.call(this, effect, heardMs);
    if (failingEffect.after-- > 0) return begin.call(this, effect, heardMs);
    host.failingEffect = undefined;
    const { machine } = this;
    const { carryOut } = machine;
    // For this one try: when it is tried again, it works.
    machine.carryOut = (effect) => {
      machine.carryOut = carryOut;
      return failing(effect);
    };
    return begin.call(this, effect, heardMs);
  };
}

function failing({ type }: Effect): Promise<void> {
  const world = theWorld();
  const { random } = world;
  const how = TAKE_TIME.has(type) ? random.pick(["throws", "rejects"]) : "throws";
  world.note("FAULT", `effect "${type}" ${how}`);
  world.count(`effect that fails: ${type}`);
  const error = new Error(`a made-up error of "${type}"`);
  if (how === "throws") throw error;
  return current()
    .later(random.between(0, 30))
    .then(() => Promise.reject(error));
}
