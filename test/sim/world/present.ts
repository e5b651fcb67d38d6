/** The world that is played now: stand-ins find it here, since production code cannot hand it to them. */
import type { World } from "./world.ts";

let present: World | undefined;

export function setWorld(world: World | undefined): void {
  present = world;
}

export function theWorld(): World {
  if (present === undefined) throw new Error("simulator: no world is played");
  return present;
}
