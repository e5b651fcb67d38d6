/**
 * A planned switchover, interrupted at each of its steps. Wherever that is, the VM runs on in one place, from
 * the same state.
 */
import type { Scenario } from "../scenario.ts";

const STEPS = [
  "A sends handover",
  "B backup:arbitrating",
  "B claims",
  "B claim-written",
  "B backup:recovering",
  "B standby-loads",
  "B standby-runs",
  "B sends takeover",
  "A primary:superseded",
] as const;

const FAULTS = [
  "reset connection",
  "cut link",
  "kill guardian A",
  "power off A",
  "stop guardian A for 1500",
  "stop guardian B for 1500",
  "crash QEMU B",
  "kill guardian B",
  "power off B",
] as const;

/**
 * From the arbiter's word on the VM is the new owner's alone; if that dies before it has said TAKEOVER, the
 * old one cannot know that it does not run there, and stops. The question is on its way when the backup says
 * that it is in "arbitrating".
 */
function mayBeLost(step: (typeof STEPS)[number], fault: (typeof FAULTS)[number]): boolean {
  const late = STEPS.indexOf(step) >= STEPS.indexOf("B backup:arbitrating");
  return late && ["kill guardian B", "power off B", "crash QEMU B"].includes(fault);
}

export const SWITCHOVER: readonly Scenario[] = [
  {
    name: "there and back",
    story: "Both hosts are well. The VM moves, is protected towards where it came from, and moves back.",
    script: `
      order switchover A
      expect served by B within 500
      expect protected on B within 4000
      order switchover B
      expect served by A within 500
      expect protected on A within 4000
      expect generation 3
      expect same VM`,
  },
  ...STEPS.flatMap((step) =>
    FAULTS.filter((fault) => !mayBeLost(step, fault)).map((fault) => ({
      name: `${step}: ${fault}`,
      story: "The VM is paused, or about to be, and one of the two copies is the last.",
      script: `
        when ${step}: ${fault}
        order switchover A
        wait 3500
        mend link
        power on A
        power on B
        expect protected within 12000
        expect same VM`,
    })),
  ),
  {
    name: "the new owner dies between the arbiter's word and TAKEOVER",
    story: `What remains, and is as it is in any failover: the old primary cannot know that the VM does not run there. It asks, is denied, and stops: safety before
      availability. Neither host may start the VM by itself then; an operator has to decide.`,
    script: `
      when B claim-written: power off B
      order switchover A
      wait 3000
      expect no VM on A
      power on B
      wait 8000
      expect stranded`,
  },
];
