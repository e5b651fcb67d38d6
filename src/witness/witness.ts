/**
 * The arbiter over a register of claims: it asks until there is a definite answer, and says so when it must
 * wait for one.
 *
 * To be granted generation N + 1 means that the register's newest claim is for N + 1 and carries one's own
 * name. Whether that was written by this try or by an earlier one whose answer was lost makes no difference,
 * so it may be asked as often as it takes.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Arbiter, Claim, Verdict } from "../core/arbiter.ts";
import type { Generation } from "../core/words.ts";
import { isGeneration, isHost, isVmId, MAX_GENERATION, type Register } from "./register.ts";

/** Each is called once in an outage. */
export interface Notices {
  /** There is no answer to be had, and somebody waits for one. `text` is a sentence that says why. */
  unreachable(text: string): void;
  reachable(text: string): void;
}

/** Between a try that failed and the next. */
const AGAIN_MS = 200;

/** An arbiter that can be looked at without asking it for anything. */
export interface CheckedArbiter extends Arbiter {
  check(vmId: string, signal?: AbortSignal): Promise<void>;
}

export class Witness implements CheckedArbiter {
  readonly name: string;
  private readonly register: Register;
  private readonly notices: Notices;
  private readonly closing = new AbortController();
  private outage = false;

  constructor(register: Register, notices: Notices) {
    this.name = register.name;
    this.register = register;
    this.notices = notices;
  }

  async ask(vmId: string, generation: Generation, host: string, signal?: AbortSignal): Promise<Verdict> {
    const vm = checkedVm(vmId);
    const wanted: Claim = { generation: generation + 1, host, at: new Date().toISOString() };
    if (!isGeneration(generation) || wanted.generation > MAX_GENERATION)
      throw new TypeError(`${generation} is no generation to go on from: 0 to ${MAX_GENERATION - 1}`);
    if (!isHost(host))
      throw new TypeError(`"${host}" is no host's name: up to 253 printable ASCII characters, no blanks`);
    const newest = await this.insist(async (until) => {
      const found = await this.register.claim(vm, wanted, until);
      if (found.generation >= wanted.generation) return found;
      throw new Error(`${this.name} has lost the claim for generation ${wanted.generation} that it took`);
    }, signal);
    const granted = newest.generation === wanted.generation && newest.host === host;
    return { granted, generation: newest.generation };
  }

  async latest(vmId: string, signal?: AbortSignal): Promise<Claim | undefined> {
    const vm = checkedVm(vmId);
    return await this.insist((until) => this.register.newest(vm, until), signal);
  }

  /** Resolves when the witness answers and could take a claim of this VM. Keeps trying, like `ask`. */
  async check(vmId: string, signal?: AbortSignal): Promise<void> {
    const vm = checkedVm(vmId);
    await this.insist(async (until) => {
      await this.register.newest(vm, until);
      await this.register.check?.(vm, until);
    }, signal);
  }

  close(): void {
    this.closing.abort(new Error(`the question was given up: ${this.name} was closed`));
    this.register.close();
  }

  /** Tries until there is an answer, or the caller gives up. */
  private async insist<T>(attempt: (until: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const until = AbortSignal.any([this.closing.signal, ...(signal === undefined ? [] : [signal])]);
    for (;;) {
      until.throwIfAborted();
      try {
        const answer = await attempt(until);
        this.answered();
        return answer;
      } catch (error) {
        until.throwIfAborted();
        this.unanswered(error as Error);
      }
      // When it is aborted, the round begins, and ends with the reason.
      await delay(AGAIN_MS, undefined, { signal: until }).catch(() => {});
    }
  }

  private answered(): void {
    if (!this.outage) return;
    this.outage = false;
    this.notices.reachable(`${this.name} answers again`);
  }

  private unanswered({ message }: Error): void {
    if (this.outage) return;
    this.outage = true;
    this.notices.unreachable(
      `${this.name} gives no answer, so nothing is decided until it does; it is asked again and again: ${message}`,
    );
  }
}

function checkedVm(vmId: string): string {
  const vm = vmId.toLowerCase();
  if (!isVmId(vm)) throw new TypeError(`"${vmId}" is no UUID of a VM`);
  return vm;
}
