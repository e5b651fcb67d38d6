// Both ends of a session over several paths, each through a proxy that makes faults of its own.

import type { TestContext } from "node:test";
import { FaultProxy } from "../../src/lab/fault-proxy.ts";
import type { ListenOptions } from "../../src/link/listen.ts";
import type { Liveness } from "../../src/link/liveness.ts";
import type { Session } from "../../src/link/session.ts";
import { backup, type Heard, local, primary } from "./link-samples.ts";

/** Quick to notice a path, slow to give up the peer: the machine may be busy. */
export const SIGNS: Liveness = { heartbeatMs: 10, lagMs: 60, detectionMs: 4_000 };

export interface Pair {
  readonly proxies: readonly FaultProxy[];
  readonly ports: readonly number[];
  readonly a: Session;
  readonly b: Session;
  readonly atA: Heard;
  readonly atB: Heard;
}

export async function listening(t: TestContext, paths: number, change: Partial<ListenOptions> = {}) {
  const b = await backup(t, { addresses: local(Array(paths).fill(0)), ...SIGNS, ...change });
  const proxies: FaultProxy[] = [];
  for (const port of b.listener.ports)
    proxies.push(await FaultProxy.start({ to: { address: "127.0.0.1", port } }));
  t.after(() => {
    for (const proxy of proxies) proxy.close();
  });
  return { b, proxies };
}

/** Both ends of a session, all its paths up. */
export async function pair(t: TestContext, paths = 2, signs: Partial<ListenOptions> = {}): Promise<Pair> {
  const { b, proxies } = await listening(t, paths, signs);
  const ports = proxies.map(({ port }) => port);
  const { session: a, heard: atA } = await primary(t, ports, { ...SIGNS, ...signs });
  const all: Pair = { proxies, ports, a, b: b.sessions[0]!, atA, atB: b.heard };
  await allUp(all);
  return all;
}

export async function allUp({ a, b, atA, atB }: Pair): Promise<void> {
  for (const [session, heard] of [
    [a, atA],
    [b, atB],
  ] as const)
    await heard.until(() => session.paths.every(({ up }) => up) || undefined);
}
