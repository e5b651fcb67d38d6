/**
 * What hosts bring that stand in a rack and not in a lab: full and slow disks, addresses that go away, hosts
 * that are installed anew, and people who give orders.
 */
import type { Scenario } from "../scenario.ts";

/** Stops a protection so long after it was begun. */
const stopAfter = (ms: number): Scenario => ({
  name: `stop ${ms} ms after protect`,
  story: "Whatever was begun is undone, and who is told that it is done is not protected a moment later.",
  script: `
    begin unprotected
    order protect A
    wait ${ms}
    order stop A
    wait 3000
    expect served by A
    order protect A
    expect protected on A within 4000
    expect same VM`,
});

export const REAL_HOSTS: readonly Scenario[] = [
  ...[1, 4, 15, 30, 60, 90, 120, 160, 240].map(stopAfter),
  {
    name: "a VM without a disk is failed over, and back",
    story: "There is nothing to be settled, and nothing to be brought into step but its memory.",
    script: `
      begin without a disk
      power off A
      expect served by B within 1500
      power on A
      expect protected on B within 12000
      order switchover B
      expect protected on A within 4000
      expect same VM`,
  },
  {
    name: "the survivor's directory is full when it takes over",
    story: "Its notes fail, and are made when there is room. The VM runs.",
    script: `
      no room for notes at B
      power off A
      expect served by B within 1500
      wait 3000
      expect served by B
      room for notes at B
      power on A
      expect protected on B within 25000
      expect same VM`,
  },
  {
    name: "a slow flush is under way when the backup takes over",
    story: `The flush ends after the takeover was noted. Were it to note then that the images are a replica, this host, coming back from a power failure, would not know
      what they are.`,
    script: `
      syncing at B takes 400
      wait 2100
      power off A
      expect served by B within 1500
      wait 2500
      expect served by B
      power off B
      power on B
      expect served by B within 12000
      end`,
  },
  {
    name: "flushes in two memories are on the disk when the VM is ended in order",
    story:
      "The guest was told that its data is safe. Somebody ends the VM, the host loses power, and the VM is started from what the disk has.",
    script: `
      begin with flushes in memory
      wait 300
      order quit A
      expect no VM on A within 5000
      power off A
      power on A
      expect served by A within 12000`,
  },
  {
    name: "flushes in two memories are on the disk when protection ends",
    story:
      "The backup is gone. What was promised because of it must be on the one disk that is left, before anybody can see the promise.",
    script: `
      begin with flushes in memory
      wait 300
      power off B
      expect served by A within 1500
      wait 300
      power off A
      power on A
      expect served by A within 12000
      end`,
  },
  {
    name: "flushes in two memories are on the disk before the backup lets go of its own",
    story: `Somebody ends the protection. The guest was told that its data is safe, and clients were told so: because of two memories, of which the backup gives up one when it hears
      GOODBYE. If the primary lost power behind that, the other one would be gone, too.`,
    script: `
      begin with flushes in memory
      wait 300
      order stop A
      expect served by A within 1000
      wait 300`,
  },
  {
    name: "the witness can be read, and not written",
    story:
      "As long as nobody has to be given the VM, nothing changes. Then it stands still, until there is room for a claim.",
    script: `
      witness cannot write
      wait 500
      expect protected on A
      power off A
      wait 1500
      expect nobody served
      witness can write
      expect served by B within 1500
      expect same VM`,
  },
  {
    name: "an operator would start the VM on the host that had it before the other",
    story: `A had it, then B, and B is down. On A somebody says start-here. Its disks are older than B's, which B would lose when it returns: so that takes a word of its own, and the
      refusal says who has the newer ones.`,
    script: `
      power off A
      expect served by B within 1500
      wait 1000
      power off B
      power on A
      wait 3000
      order start-here A
      expect refused: B was given VM within 1000
      expect no VM on A
      power on B
      expect served by B within 12000`,
  },
  {
    name: "a host is installed anew, and started with its old file",
    story:
      "Its disks are blank, and it has no record. Its file says that it is the primary, and the other host has all of the VM.",
    script: `
      power off A
      host A is installed anew
      expect served by B within 1500
      power on A
      wait 3000
      expect served by B
      expect no VM on A
      expect same VM
      end`,
  },
  {
    name: "both files say primary",
    story: "The first start takes a claim, so the second host is refused.",
    script: `
      begin with both primary
      wait 6000
      expect same VM
      end`,
  },
  {
    name: "the question to the arbiter fails at first, at either host",
    story: "It is asked again. A VM whose output is held must not wait for ever.",
    script: `
      effect ask-arbiter fails at A
      effect ask-arbiter fails at B
      cut link
      wait 2500
      mend link
      expect generation 2
      expect protected within 12000
      expect same VM`,
  },
  {
    name: "the standby cannot be run at first",
    story: "Nobody else may run it: it is tried again.",
    script: `
      effect run-standby fails at B
      power off A
      expect served by B within 2500
      expect same VM`,
  },
  {
    name: "the survivor's image has no room for the last checkpoint",
    story:
      "The primary is dead, and nobody else can go on: this host waits for room, and then runs the VM as it was.",
    script: `
      disk of B takes 1500
      wait 500
      when B backup:arbitrating: disk of B is full
      power off A
      wait 4000
      expect nobody served
      expect generation 2
      disk of B has room
      expect served by B within 25000  # as many checkpoints as were waiting, each for as long as this disk takes
      expect same VM
      power on A
      expect protected on B within 25000`,
  },
  {
    name: "the survivor's image has no room, and the primary is granted the VM",
    story: "The link alone was lost. Who is told no stands down, whatever it waits for.",
    script: `
      disk of B takes 1500
      wait 500
      witness is out of reach for B
      when B backup:arbitrating: disk of B is full
      cut link
      expect served by A within 3000
      wait 1000
      witness is back
      mend link
      wait 1000
      disk of B has room
      disk of B takes 1
      expect protected on A within 25000
      expect same VM`,
  },
  {
    name: "the primary's QEMU waits for storage, and cannot be killed",
    story: "Its guardian kills it, and its process does not end. The backup is not to wait for that.",
    script: `
      QEMU of A hangs, and cannot be killed
      expect served by B within 3500
      expect same VM
      power off A
      power on A
      expect protected on B within 12000`,
  },
  {
    name: "an error in the backup's own code, and the primary's host loses power",
    story:
      "What the backup has acknowledged may be all that is left of the VM. So it is kept, and the arbiter asked, as if the link were lost.",
    script: `
      when B backup:arbitrating: power off A
      a step fails at B
      expect served by B within 2500
      expect same VM`,
  },
  {
    name: "an error in the backup's own code",
    story: "One of the two is given the VM, and runs it; then it is protected again.",
    script: `
      a step fails at B
      wait 1000
      expect generation 2
      expect protected within 25000
      expect same VM`,
  },
  {
    name: "the primary is lost when its handed-over VM is about to run",
    story:
      "The standby takes long to load. As long as the primary waits for it, it has so much time; once nobody else has the VM, it has all the time that it takes.",
    script: `
      standby of B loads for 15000
      order switchover A
      when B backup:recovering: power off A
      wait 11000
      expect nobody served
      expect served by B within 6000
      expect same VM`,
  },
  {
    name: "both hosts come back at once",
    story:
      "The one that had the VM leaves its backup time to be given it, and starts it then: nobody else has it.",
    script: `
      power off A
      power off B
      wait 100
      power on A
      power on B
      expect protected on A within 20000`,
  },
];
