/** What took somebody by surprise, or might. */
import type { Scenario } from "../scenario.ts";

export const NASTY: readonly Scenario[] = [
  {
    name: "an ack is lost, and its checkpoint is committed",
    story: `The backup holds, and has in its images, a checkpoint whose ack never arrives. Nothing of its output was seen; the backup goes on from it all the same,
      and the client hears the answers from there.`,
    script: `
      when B sends ack the 3rd time: cut link B→A
      wait 160
      power off A
      expect served by B within 1500
      mend link
      expect same VM`,
  },
  {
    name: "the primary dies with the ack in its socket",
    story: "It came, and was not read.",
    script: `
      when B sends ack the 3rd time: stop guardian A for 90
      wait 170
      power off A
      expect served by B within 1500
      expect same VM`,
  },
  {
    name: "the witness's answer is lost after the claim was written",
    story:
      "The backup asks again, and the newest claim has its own name in it: it is granted what it was granted.",
    script: `
      when B claim-written: witness is gone
      power off A
      wait 1500
      expect nobody served
      witness is back
      expect served by B within 1500
      expect generation 2
      expect same VM`,
  },
  {
    name: "the primary's answer is lost after the claim was written",
    story: "The same for the one that goes on alone.",
    script: `
      when A claim-written: witness is gone
      power off B
      wait 1500
      witness is back
      wait 1500
      expect served by A
      expect generation 2
      expect same VM`,
  },
  {
    name: "the backup stands still in the midst of a failover",
    story:
      "It has asked, is granted the VM, and does not hear of it for seconds. Meanwhile the old primary comes back, and must not start.",
    script: `
      when B claims: stop guardian B for 2500
      kill guardian A
      wait 1000
      expect nobody served
      expect served by B within 3000
      expect protected on B within 8000
      expect same VM`,
  },
  {
    name: "the backup stands still before it asks, and the primary was granted the VM",
    story: "It wakes up, takes the primary for lost, asks with an old generation, and is denied.",
    script: `
      stop guardian B for 1500
      reset connection
      wait 400
      expect served by A
      wait 2000
      expect protected on A within 8000
      expect generation 2
      expect same VM`,
  },
  {
    name: "the link flaps faster than anybody can detect",
    story: "TCP brings everything over in the end. Nobody asks anybody.",
    script: `${"cut link\nwait 60\nmend link\nwait 90\n".repeat(8)}
      wait 500
      expect protected on A
      expect generation 1`,
  },
  {
    name: "the link flaps as fast as it is detected",
    story: "Whoever is faster each time.",
    script: `${"cut link\nwait 190\nmend link\nwait 240\n".repeat(6)}
      expect protected within 30000
      expect same VM`,
  },
  {
    name: "both ask in the same instant",
    story: "One of two is granted the generation. Whoever it is.",
    script: `
      reset connection
      when A claims: wall clock of A jumps
      wait 800
      expect generation 2
      expect same VM`,
  },
  {
    name: "the primary's wall clock jumps",
    story: "No decision rests on it.",
    script: `
      wall clock of A jumps
      wall clock of B jumps
      wait 800
      expect protected on A
      expect generation 1`,
  },
  {
    name: "the primary stands still for half a detection time, and the backup has gone",
    story:
      "What it finds in its socket releases nothing: only a checkpoint that is sent after it is back shows that the backup is still one.",
    script: `
      when B sends ack the 3rd time: stop guardian A for 700
      wait 150
      reset connection at B
      expect served by B within 1500
      wait 1500
      expect protected on B within 8000
      expect same VM`,
  },
  {
    name: "a host that ran the VM before wakes up and is called by the new owner",
    story:
      "It took the VM over, hung, and lost it, and does not know yet. It must not tell the new owner to stop.",
    script: `
      order switchover A
      expect protected on B within 4000
      stop guardian B for 2500
      expect served by A within 1500
      wait 3000
      expect served by A
      expect protected on A within 8000
      expect generation 3
      expect same VM`,
  },
  {
    name: "the old primary reboots while the backup cannot ask",
    story:
      "It had a protection that may not have ended. So it leaves the backup time to be given the VM, which has the newer state.",
    script: `
      witness is out of reach for B
      power off A
      wait 800
      power on A
      wait 1500
      witness is back
      expect served by B within 2000
      expect same VM`,
  },
  {
    name: "stop is asked for, and the primary dies before the backup has answered",
    story: "Nothing was let go before the backup stood down, so whatever it holds is good enough.",
    script: `
      when A sends goodbye: power off A
      order stop A
      wait 1500
      power on A
      wait 8000`,
  },
  {
    name: "goodbye-ok is lost",
    story: "The backup has stood down, and the primary does not know. It asks, and is granted the VM.",
    script: `
      when B sends goodbye-ok: cut link B→A
      order stop A
      wait 1500
      mend link
      expect served by A within 500
      expect same VM`,
  },
  {
    name: "the state file cannot be written when the backup takes over",
    story:
      "Found by this simulator: the error ended the guardian, and with it the VM that it had just taken over.",
    script: `
      nothing is synced at B
      kill guardian A
      expect served by B within 1000
      wait 1000
      expect served by B
      syncing works at B
      expect same VM`,
  },
  {
    name: "a handover cannot be noted",
    story:
      "Found by this simulator: the old primary's guardian was left without a role, and the VM without a backup.",
    script: `
      nothing is synced at A
      order switchover A
      expect served by B within 500
      wait 1000
      syncing works at A
      expect protected on B within 8000
      expect same VM`,
  },
  {
    name: "a host that has lost its backup fails before it is protected again",
    story:
      "Found by this simulator: the wish to be protected was lost with the end of the protection, though nobody had said stop. (The order has been answered: one that fails leaves no wish.)",
    script: `
      begin unprotected
      order protect A
      expect protected on A within 4000
      wait 50
      power off B
      wait 700
      expect served by A
      power off A
      power on A
      power on B
      expect protected on A within 12000`,
  },
  {
    name: "the host that took over loses power before its disk is safe",
    story: `Found by this simulator: it noted the images to be the VM's with half of them in its memory, and would have started from what was left. Now it does not, and
      neither may the other host, whose disk is older: an operator has to decide.`,
    script: `
      nothing is synced at B
      power off A
      expect served by B within 1500
      power off B
      power on A
      power on B
      wait 12000
      expect stranded`,
  },
  {
    name: "the backup is told that the primary cannot go on in the midst of the first pass, again and again",
    story:
      "Found by this simulator: the start of a protection that was given up failed late, in the next one, and ended that.",
    script: `
      begin unprotected
      when B backup:filling: nothing is synced at B
      order protect A
      wait 100
      syncing works at B
      order protect A
      wait 400
      expect served by A
      expect generation 1`,
  },
];
