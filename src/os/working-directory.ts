/** The directory from which this program was started may be removed while it runs for months. */
import { existsSync, readlinkSync } from "node:fs";

/** To be called before a thread is started: none can be where there is no working directory. */
export function leaveRemovedDirectory(): void {
  if (!existsSync(readlinkSync("/proc/self/cwd"))) process.chdir("/");
}
