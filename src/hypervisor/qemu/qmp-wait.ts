/** Waiting for an event of QEMU's, with a deadline. */
import { type Qmp, QmpClosed } from "./qmp.ts";

interface Awaited {
  readonly event: string;
  readonly isIt: (data: unknown) => boolean;
  readonly withinMs: number;
  /** What to say when it does not come in time. */
  readonly late: string;
}

/**
 * Does `start`, which brings the event about, and waits for the event, which may come before `start` is done.
 * With `start` giving false there is nothing to wait for. Rejects as `start` does, when QEMU goes away, and
 * when the event is late.
 */
export async function untilEvent(qmp: Qmp, awaited: Awaited, start: () => Promise<boolean>): Promise<void> {
  const seen = Promise.withResolvers<void>();
  seen.promise.catch(() => {});
  const listeners = [
    qmp.on(awaited.event, (data) => {
      if (awaited.isIt(data)) seen.resolve();
    }),
    qmp.on("closed", () => seen.reject(new QmpClosed(`it ended before ${awaited.event}`))),
  ];
  const timer = setTimeout(() => seen.reject(new Error(awaited.late)), awaited.withinMs);
  try {
    if (await start()) await seen.promise;
  } finally {
    clearTimeout(timer);
    for (const end of listeners) end();
  }
}
