/** In place of `node:timers/promises`. */
import { current } from "../world/time.ts";

export function setTimeout(
  ms: number,
  value?: unknown,
  { signal }: { signal?: AbortSignal } = {},
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const timer = current().setTimer(() => resolve(value), ms);
    signal?.addEventListener("abort", () => {
      timer.cancelled = true;
      reject(signal.reason);
    });
  });
}
