/**
 * A tap of another process' as it has it open: what is written to it goes out as if that process had sent it.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { checked, libc } from "./libc.ts";

/** The same on x86-64 and arm64. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

/**
 * A descriptor for the tap `device` that the process `pid` has open: pidfd_getfd(2), Linux 5.6 or later. The
 * caller closes it. Needs the right to trace that process, which its parent has. @throws Error with what is
 * in the way
 */
export function borrowTap(pid: number, device: string): number {
  const theirs = descriptorOf(pid, device);
  const process = checked("pidfd_open", libc.syscall(SYS_PIDFD_OPEN, pid, 0, 0));
  try {
    return checked("pidfd_getfd", libc.syscall(SYS_PIDFD_GETFD, process, theirs, 0));
  } finally {
    libc.close(process);
  }
}

/** The number under which the process has the tap. */
function descriptorOf(pid: number, device: string): number {
  for (const fd of readdirSync(`/proc/${pid}/fd`)) if (tapOf(pid, fd) === device) return Number(fd);
  throw new Error(`process ${pid} does not have the tap ${device} open`);
}

/** The tap device behind a descriptor; undefined of others, and of those that are closed meanwhile. */
function tapOf(pid: number, fd: string): string | undefined {
  try {
    if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== "/dev/net/tun") return undefined;
    return /^iff:\s*(\S+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))?.[1];
  } catch {
    return undefined;
  }
}
