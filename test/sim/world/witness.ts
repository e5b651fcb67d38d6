/**
 * The witness: claims, kept by one process or by a majority of three. Questions and answers are datagrams:
 * they are lost, come late, twice, or in another order; a claim may be written long after who asked has given
 * up. What is written stays written.
 */
import type { Claim } from "../../../src/core/arbiter.ts";
import type { Surroundings } from "./surroundings.ts";
import { current, type SimProcess } from "./time.ts";

interface Member {
  on: boolean;
  /** It has room for claims. */
  writes: boolean;
  /** Host names that cannot reach it. */
  readonly deafTo: Set<string>;
}

/** How ill datagrams fare. */
export interface Context {
  loss: number;
  duplication: number;
  delayMs: number;
  /** Of those that take long. */
  longMs: number;
  longShare: number;
}

const GRACE_MS = 400;

export class SimWitness {
  readonly members: Member[];
  readonly post: Context;
  /** All that was ever claimed. Nobody but the judge may look. */
  readonly claims: Claim[] = [];
  private readonly world: Surroundings;

  constructor(world: Surroundings, count: number, post: Context) {
    this.world = world;
    this.post = post;
    this.members = Array.from({ length: count }, () => ({
      on: true,
      writes: true,
      deafTo: new Set<string>(),
    }));
  }

  get newest(): Claim | undefined {
    return this.claims.at(-1);
  }

  get works(): boolean {
    return this.members.filter(({ on }) => on).length * 2 > this.members.length;
  }

  /** Can this host be answered at present? */
  reaches(host: string): boolean {
    return this.works && this.members.some(({ deafTo, on }) => on && !deafTo.has(host));
  }

  /** What production code gets for a witness (stand-ins/open-witness.ts). */
  register() {
    const first = this.world.random.below(this.members.length);
    let tries = 0;
    const next = () => (first + tries++) % this.members.length;
    return {
      name: "the witness",
      claim: (_vm: string, claim: Claim) => this.ask(next(), claim) as Promise<Claim>,
      newest: () => this.ask(next(), undefined),
      close: () => {},
    };
  }

  private ask(member: number, claim: Claim | undefined): Promise<Claim | undefined> {
    const asker = current();
    const host = this.world.hostOf(asker).name;
    this.world.step(host, claim === undefined ? "asks-newest" : "claims");
    const { promise, reject, resolve } = Promise.withResolvers<Claim | undefined>();
    asker.setTimer(() => reject(new Error("the witness is silent")), GRACE_MS);
    this.send(host, member, () => this.answer(member, host, asker, claim, resolve));
    return promise;
  }

  private answer(
    member: number,
    host: string,
    asker: SimProcess,
    claim: Claim | undefined,
    answered: (newest: Claim | undefined) => void,
  ): void {
    // Without a majority a member says nothing, neither of what is written nor of what is to be.
    if (!this.members[member]!.on || !this.works) return;
    if (claim !== undefined && !this.members[member]!.writes) return;
    const { newest } = this;
    if (claim !== undefined && (newest === undefined || claim.generation > newest.generation)) {
      this.claims.push(claim);
      this.world.note("witness", `generation ${claim.generation} is ${claim.host}'s`);
      this.world.step(claim.host, "claim-written");
    }
    const answer = this.newest;
    this.send(host, member, () => asker.post(0, () => answered(answer)));
  }

  /** A datagram between a host and a member, in either direction. */
  private send(host: string, member: number, arrives: () => void): void {
    const { post } = this;
    const { random, time } = this.world;
    const copies = random.chance(post.loss) ? 0 : random.chance(post.duplication) ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      const long = random.chance(post.longShare);
      time.after(0.2 + random.unit() * (long ? post.longMs : post.delayMs), () => {
        const { deafTo, on } = this.members[member]!;
        if (on && !deafTo.has(host) && this.world.host(host).on) arrives();
      });
    }
  }
}
