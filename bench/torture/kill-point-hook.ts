/**
 * What makes a guardian a test build: loaded into each of its threads (NODE_OPTIONS=--import), it stands
 * still at an armed point of the epoch cycle, there and then, until it is let go or killed. Steered through
 * the folder REMUS_KILL_POINTS by kill-points.ts:
 *
 *   armed-POINT   stand still at so many arrivals at POINT from now (a number in the file)
 *   reached       a FIFO; a line says that a thread stands still
 *   go            a FIFO; a byte lets it go on
 */
import { subscribe } from "node:diagnostics_channel";
import { closeSync, existsSync, openSync, readFileSync, readSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { epochPointChannel } from "../../src/os/epoch-points.ts";

const folder = process.env.REMUS_KILL_POINTS!;
let arrivalsLeft: number | undefined;

subscribe(epochPointChannel, (point) => {
  const armed = join(folder, `armed-${point}`);
  if (!existsSync(armed)) return;
  arrivalsLeft = (arrivalsLeft ?? Number(readFileSync(armed, "utf8"))) - 1;
  if (arrivalsLeft > 0) return;
  arrivalsLeft = undefined;
  rmSync(armed);
  standStill(String(point));
});

/** Blocks the thread: no event, no timer, no message of its own until `go`. */
function standStill(point: string): void {
  const reached = openSync(join(folder, "reached"), "w");
  // For both: nobody has it open for writing yet, and that would be waited for.
  const go = openSync(join(folder, "go"), "r+");
  writeSync(reached, `${point}\n`);
  readSync(go, Buffer.alloc(1));
  closeSync(reached);
  closeSync(go);
}
