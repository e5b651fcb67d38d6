/**
 * Every write of the guest to a disk also goes to an endpoint of ours, an NBD server on a socket, and the
 * guest sees it done when both have it. QEMU's block job `mirror` does that, without copying what was on the
 * disk before.
 */
import { addEndpointNode } from "./disk-endpoint-node.ts";
import { addIntent, addTop, removeTop } from "./disk-intent.ts";
import { blockNodes, diskNodes } from "./disk-nodes.ts";
import { type Monitors, orCut } from "./disk-rescue.ts";
import { type Qmp, QmpError } from "./qmp.ts";
import { untilEvent } from "./qmp-wait.ts";

/** For each of the steps that wait for the endpoint, or for the job. */
const START_TIMEOUT_MS = 2_000;
/**
 * With an endpoint that answers it takes some 10 ms. With one that does not, the VM stands still for as long
 * as this.
 */
const STOP_TIMEOUT_MS = 1_000;
/** For a job that was cancelled and whose endpoint is no hindrance any more. */
const END_TIMEOUT_MS = 5_000;

export interface MirroredDisk {
  /** Its number in `vm.disks`. */
  readonly index: number;
  /**
   * QEMU's end of a socket pair; the caller's own copy stays the caller's. At the other end an NBD server
   * must answer already, with an export of the node's name (`disk0`) and of exactly the disk's size: until it
   * does, the VM stands still.
   */
  readonly fd: number;
  /** The same for the endpoint of write-intent (see `disk-intent.ts`). Without it there is none. */
  readonly intentFd?: number;
  /**
   * The job has ended unasked, or is about to: from now on writes of the guest may be missing. Once, with a
   * sentence.
   */
  readonly onFailed: (reason: string) => void;
}

/** Ends the listening of a job's watch. By monitor, since a job belongs to one QEMU. */
const watches = new WeakMap<Qmp, Map<number, () => void>>();

/**
 * Starts mirroring a disk of a VM that runs or is paused. When it resolves, every later write goes to the
 * endpoint too. Rejects with a sentence, everything undone and the VM running on.
 */
export async function replicateDisk(monitors: Monitors, disk: MirroredDisk): Promise<void> {
  const { format } = diskNodes(disk.index);
  try {
    const { index, fd, intentFd } = disk;
    const fds = intentFd === undefined ? [fd] : [fd, intentFd];
    await orCut(monitors.watchdog, { index, fds }, START_TIMEOUT_MS, begin(monitors.qmp, disk));
  } catch (error) {
    await stopReplicatingDisk(monitors, disk.index).catch(() => {});
    throw new Error(`${format} cannot be replicated: ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Takes it all out again, whatever of it there is. The guest runs on; what it writes meanwhile may or may not
 * be mirrored.
 */
export async function stopReplicatingDisk(monitors: Monitors, index: number): Promise<void> {
  unwatch(monitors.qmp, index);
  await orCut(monitors.watchdog, { index, fds: [] }, STOP_TIMEOUT_MS, end(monitors.qmp, index));
}

async function begin(qmp: Qmp, disk: MirroredDisk): Promise<void> {
  const { format, top, remote, job } = diskNodes(disk.index);
  if (disk.intentFd !== undefined) {
    await addTop(qmp, disk.index);
    await addIntent(qmp, disk.index, disk.intentFd);
  }
  await addEndpointNode(qmp, { node: remote, exportName: format, fd: disk.fd });
  const started = watch(qmp, disk);
  // Ready or over: then it is told by `started` why.
  const settled = {
    event: "JOB_STATUS_CHANGE",
    isIt: (data: unknown) => isChange(data, job, ["ready", "null"]),
    withinMs: START_TIMEOUT_MS,
    late: "the mirror job did not become ready",
  };
  await untilEvent(qmp, settled, async () => {
    await qmp.execute("blockdev-mirror", {
      "job-id": job,
      device: disk.intentFd === undefined ? format : top,
      target: remote,
      sync: "none",
      "copy-mode": "write-blocking",
    });
    return true;
  });
  started();
}

function isChange(data: unknown, job: string, wanted: readonly string[]): boolean {
  const { id, status } = data as { id: string; status: string };
  return id === job && wanted.includes(status);
}

interface JobEvent {
  readonly device: string;
  readonly error?: string;
}

/**
 * Returns a function that says the job has started, and throws if it has ended already. Until then a failure
 * is the start's.
 */
function watch(qmp: Qmp, { index, onFailed }: MirroredDisk): () => void {
  const { format, job } = diskNodes(index);
  let running = false;
  let failure: string | undefined;
  const fail = (what: string) => {
    unwatch(qmp, index);
    failure = what;
    if (running)
      onFailed(`The mirror of ${format} failed: ${what}. What the guest writes is on this host alone.`);
  };
  const mine = (act: (event: JobEvent) => void) => (data: unknown) => {
    if ((data as JobEvent).device === job) act(data as JobEvent);
  };
  const listeners = [
    // The guest's write was all right. That the job ends follows up to 100 ms later, and what is written
    // meanwhile is not mirrored.
    qmp.on(
      "BLOCK_JOB_ERROR",
      mine(() => fail("the endpoint refused a write, or its connection broke")),
    ),
    qmp.on(
      "BLOCK_JOB_COMPLETED",
      mine(({ error }) => fail(error ?? "the job ended")),
    ),
    qmp.on(
      "BLOCK_JOB_CANCELLED",
      mine(() => fail("somebody cancelled the job")),
    ),
  ];
  const all = watches.get(qmp) ?? new Map<number, () => void>();
  watches.set(qmp, all);
  all.set(index, () => {
    for (const stop of listeners) stop();
  });
  return () => {
    if (failure !== undefined) throw new Error(failure);
    running = true;
  };
}

function unwatch(qmp: Qmp, index: number): void {
  watches.get(qmp)?.get(index)?.();
  watches.get(qmp)?.delete(index);
}

async function end(qmp: Qmp, index: number): Promise<void> {
  const { remote, job } = diskNodes(index);
  await cancel(qmp, job);
  await removeTop(qmp, index);
  if ((await blockNodes(qmp)).has(remote)) await qmp.execute("blockdev-del", { "node-name": remote });
}

/**
 * Nothing more goes to the endpoint: `job-cancel` of a mirror does not wait for it. A job that ends by itself
 * at that moment is as good.
 */
async function cancel(qmp: Qmp, job: string): Promise<void> {
  const over = {
    event: "JOB_STATUS_CHANGE",
    isIt: (data: unknown) => isChange(data, job, ["null"]),
    withinMs: END_TIMEOUT_MS,
    late: `QEMU did not end the job ${job}`,
  };
  await untilEvent(qmp, over, async () => {
    const jobs = await qmp.execute<{ id: string }[]>("query-jobs");
    if (!jobs.some(({ id }) => id === job)) return false;
    await qmp.execute("job-cancel", { id: job }).catch((error: Error) => {
      if (!(error instanceof QmpError)) throw error; // else it is ending already
    });
    return true;
  });
}
