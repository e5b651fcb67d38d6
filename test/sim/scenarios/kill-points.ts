/**
 * The six points of the primary's epoch cycle (src/os/epoch-points.ts), and what can fail there. Before the
 * release nobody outside knows of the epoch; after it, the survivor must.
 */
import { epochPoints } from "../../../src/os/epoch-points.ts";
import type { Scenario } from "../scenario.ts";

const FAULTS: readonly { readonly action: string; readonly after: string }[] = [
  { action: "kill guardian A", after: "expect served by B within 1500" },
  { action: "power off A", after: "expect served by B within 1500" },
  { action: "crash QEMU A", after: "expect served by B within 1500" },
  { action: "stop guardian A for 2000", after: "expect served by B within 1500\nwait 2200" },
  { action: "kill guardian B", after: "wait 300\nexpect served by A" },
  { action: "power off B", after: "wait 700\nexpect served by A" },
  { action: "stop guardian B for 2000", after: "wait 700\nexpect served by A\nwait 1600" },
  { action: "cut link", after: "wait 1500\nexpect generation 2\nmend link" },
  { action: "reset connection", after: "wait 700\nexpect generation 2" },
  { action: "link is slow", after: "wait 1000\nexpect protected on A" },
];

export const KILL_POINTS: readonly Scenario[] = epochPoints.flatMap((point) =>
  FAULTS.map(({ action, after }) => ({
    name: `${point}: ${action}`,
    story: "At this very point of the epoch cycle.",
    script: `
      when A ${point} the 7th time: ${action}
      wait 300
      ${after}
      expect same VM`,
  })),
);
