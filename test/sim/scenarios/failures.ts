/**
 * The table of failures of docs/specs/protocol.md, line by line; and what each line says of the other host.
 */
import type { Scenario } from "../scenario.ts";

export const FAILURES: readonly Scenario[] = [
  {
    name: "the primary's host loses power",
    story: `Nobody says goodbye. The backup hears nothing for the detection time, asks, and goes on from the last checkpoint that it acknowledged.
      The host that comes back finds the newest claim, is the backup, and the circle is closed.`,
    script: `
      power off A
      expect served by B within 2000
      expect generation 2
      power on A
      expect protected on B within 6000
      expect same VM`,
  },
  {
    name: "the primary's QEMU crashes",
    story: `Its capture stream ends first, which looks like an end of protection. It must not be taken for one: the backup would disarm itself.`,
    script: `
      crash QEMU A
      expect served by B within 1000
      expect same VM`,
  },
  {
    name: "the primary's guardian is killed",
    story:
      "QEMU dies with it, by the parent-death signal: a clean failover, and never a VM that runs on unwatched.",
    script: `
      kill guardian A
      expect no VM on A
      expect served by B within 1000
      expect same VM`,
  },
  {
    name: "the primary falls silent and comes back",
    story: `It hangs for seconds. The backup goes on alone; the old primary wakes up with acks unread in its socket and lets nothing out, for it hears TAKEOVER, kills
      its VM and is the backup.`,
    script: `
      stop guardian A for 3000
      expect served by B within 1000
      wait 3000
      expect no VM on A
      expect protected on B within 4000
      expect same VM`,
  },
  {
    name: "the whole primary host hangs and comes back",
    story: "The same, with the guest standing still, too: it wakes up in an epoch that is long over.",
    script: `
      stop host A for 3000
      expect served by B within 1000
      wait 3000
      expect protected on B within 4000
      expect same VM`,
  },
  {
    name: "the backup's host loses power",
    story:
      "The primary asks, is granted the VM, lets everything out and runs alone. The host that comes back is the backup again.",
    script: `
      power off B
      wait 600
      expect served by A
      power on B
      expect protected on A within 8000
      expect same VM`,
  },
  {
    name: "the backup's guardian is killed",
    story: "The connection closes at once.",
    script: `
      kill guardian B
      wait 200
      expect served by A
      expect protected on A within 8000
      expect same VM`,
  },
  {
    name: "the standby's QEMU crashes",
    story: "A backup without a standby is none, and must not be left in the belief of the primary.",
    script: `
      crash QEMU B
      wait 200
      expect served by A
      expect protected on A within 8000
      expect same VM`,
  },
  {
    name: "the backup falls silent and comes back",
    story:
      "The primary goes on alone. The backup wakes up, takes the primary for lost, asks late, is denied, and begins anew.",
    script: `
      stop guardian B for 3000
      wait 600
      expect served by A
      wait 2600
      expect protected on A within 8000
      expect same VM`,
  },
  {
    name: "the link is cut",
    story: "Both ask, at about the same time. One of the two is granted the VM, and the other stops.",
    script: `
      cut link
      wait 2000
      mend link
      expect protected within 8000
      expect generation 2
      expect same VM`,
  },
  {
    name: "the link is cut on the way to the backup",
    story: "The backup hears nothing; the primary hears heartbeats and no ack.",
    script: `
      cut link A→B
      wait 2000
      mend link
      expect protected within 8000
      expect generation 2
      expect same VM`,
  },
  {
    name: "the link is cut on the way to the primary",
    story:
      "The backup gets checkpoints and acknowledges them, and nobody hears it. It may hold a checkpoint that the primary does not know to be acknowledged.",
    script: `
      cut link B→A
      wait 2000
      mend link
      expect protected within 8000
      expect generation 2
      expect same VM`,
  },
  {
    name: "the connection is reset",
    story: "Both hear of it in the same instant and ask at once.",
    script: `
      reset connection
      wait 1000
      expect generation 2
      expect protected within 8000
      expect same VM`,
  },
  {
    name: "a part of a checkpoint is damaged on its way",
    story: "A sum is wrong: the backup closes the link, the rest is as for the link.",
    script: `
      change a byte from A
      wait 1000
      expect generation 2
      expect protected within 8000
      expect same VM`,
  },
  {
    name: "the witness is gone",
    story: "Nobody needs it. Nothing changes.",
    script: `
      witness is gone
      wait 1000
      expect protected on A
      expect generation 1`,
  },
  {
    name: "link and witness, for the primary",
    story: `It cannot win, and cannot know whether the backup has: its output stays held. When it hears of the backup's word, its VM is killed.`,
    script: `
      witness is out of reach for A
      cut link
      expect served by B within 1500
      wait 1000
      witness is back
      expect no VM on A within 1500
      mend link
      expect protected on B within 8000
      expect same VM`,
  },
  {
    name: "link and witness, for the backup",
    story: "It waits. The primary goes on alone.",
    script: `
      witness is out of reach for B
      cut link
      wait 1500
      expect served by A
      witness is back
      wait 1000
      mend link
      expect protected on A within 8000
      expect same VM`,
  },
  {
    name: "link and witness, for both",
    story: "Nobody wins as long as that lasts: the VM runs, and nothing of it is heard. Then one does.",
    script: `
      witness is gone
      cut link
      wait 1000
      expect nobody served
      expect VM runs on A
      witness is back
      wait 1500
      expect generation 2
      mend link
      expect protected within 8000
      expect same VM`,
  },
  {
    name: "capture fails, and QEMU lives",
    story: "An end of protection, by agreement, and not of the VM (I5).",
    script: `
      capture fails at A
      wait 300
      expect served by A
      expect protected on A within 8000
      expect generation 1
      expect same VM`,
  },
  {
    name: "a mirror fails, and QEMU lives",
    story: "Checkpoints that lack a write are never called whole.",
    script: `
      mirror fails at A
      wait 300
      expect served by A
      expect protected on A within 8000
      expect generation 1
      expect same VM`,
  },
  {
    name: "holding output fails, and QEMU lives",
    story: "What was held is lost, as on a network; never leaked.",
    script: `
      output hold fails at A
      wait 500
      expect served by A
      expect protected on A within 8000
      expect generation 1
      expect same VM`,
  },
  {
    name: "the backup's disk is full",
    story: "It says UNABLE: the primary asks, and goes on alone, until there is room again.",
    script: `
      disk of B is full
      wait 1500
      expect served by A
      disk of B has room
      expect protected on A within 30000
      expect same VM`,
  },
  {
    name: "the standby cannot load in a planned switchover",
    story:
      "The backup refuses for good, and the primary's copy, paused until then, runs on. No checkpoint is acknowledged there until one loads.",
    script: `
      standby of B cannot load
      order switchover A
      wait 1500
      expect served by A
      wait 6000
      expect served by A
      standby of B can load
      expect protected on A within 30000
      expect same VM`,
  },
  {
    name: "the witness is silent in a planned switchover",
    story:
      "The paused VM does not wait for it without an end: the backup stands down, and names the generation that it had asked for.",
    script: `
      when backup:arbitrating: witness is gone
      order switchover A
      wait 3500
      expect served by A
      witness is back
      expect protected on A within 8000
      expect same VM`,
  },
  {
    name: "before checkpoint 0 is whole: power off B",
    story: `Nobody says so, and a first pass has patience. It ends, and epoch 1 begins, before the silence is too long; there is some patience still until checkpoint 0 is
      acknowledged. Then the arbiter is asked, though the backup has nothing that it could go on from.`,
    script: `
      begin unprotected
      when primary:syncing: power off B
      order protect A
      wait 1000
      expect served by A
      expect same VM`,
  },
  ...[
    "reset connection",
    "capture fails at A",
    "mirror fails at A",
    "output hold fails at A",
    "disk of B is full",
    "kill guardian B",
  ].map(
    (action): Scenario => ({
      name: `before checkpoint 0 is whole: ${action}`,
      story:
        "Nobody need be asked: the backup has nothing that it could go on from. The VM runs on, and protection is tried again.",
      script: `
        begin unprotected
        when primary:syncing: ${action}
        order protect A
        wait 600
        expect served by A
        expect generation 1
        expect same VM`,
    }),
  ),
];
