/** How long the lab's client had to wait for an answer while something went on. */
import type { ClientProcess } from "./client-process.ts";

/** The client says twice in this time, or so, how it goes. */
const LOOK_EVERY_MS = 20;
const NO_NEWS_MS = 5_000;

/**
 * Runs `work`. Returns what that gave, and the longest time, in ms, that the client was without an answer
 * meanwhile.
 */
export async function longestGap<T>(
  client: ClientProcess,
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly gapMs: number }> {
  // What lies before the next report is not ours.
  let seen = await news(client, client.progress);
  let gapMs = 0;
  const look = () => {
    if (client.progress === seen) return;
    seen = client.progress;
    gapMs = Math.max(gapMs, seen?.lastGapMs ?? 0);
  };
  const timer = setInterval(look, LOOK_EVERY_MS);
  try {
    const result = await work();
    await news(client, client.progress);
    look();
    return { result, gapMs };
  } finally {
    clearInterval(timer);
  }
}

/** Waits for a report after `before`. */
async function news(
  client: ClientProcess,
  before: ClientProcess["progress"],
): Promise<ClientProcess["progress"]> {
  const deadline = performance.now() + NO_NEWS_MS;
  while (client.progress === before) {
    if (performance.now() > deadline) throw new Error(`the client has said nothing for ${NO_NEWS_MS} ms`);
    await new Promise((again) => setTimeout(again, LOOK_EVERY_MS));
  }
  return client.progress;
}
