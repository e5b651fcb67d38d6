import { checked, libc } from "./libc.ts";

const CLOCK_BOOTTIME = 7;
const time = new BigInt64Array(2);

/**
 * Milliseconds of CLOCK_BOOTTIME: the same clock in every process of a machine, never set back, and it goes
 * on while the machine is suspended. Whoever judges how old something is must use it: by CLOCK_MONOTONIC,
 * which performance.now() reads, an hour of sleep is no time at all.
 */
export function monotonicMs(): number {
  return Number(monotonicNs()) / 1e6;
}

/** The same in nanoseconds. */
export function monotonicNs(): bigint {
  checked("clock_gettime", libc.clock_gettime(CLOCK_BOOTTIME, time));
  return time[0]! * 1_000_000_000n + time[1]!;
}
