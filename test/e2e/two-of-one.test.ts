/**
 * Two of one, with all parts real: a second host with the same role in its file, and a host that was
 * installed anew. Neither of them runs the VM (I3).
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { test } from "node:test";
import { makeLab } from "./lab-session.ts";

test("I3: of two hosts that both take themselves for the first one runs the VM; one that has forgotten is refused", async (t) => {
  const lab = await makeLab(t, { guest: "echo", disks: [{ mebibytes: 16, use: "data" }] });
  const a = await lab.startPrimary();
  const pid = await lab.qemuPid("a");

  lab.owner = "b";
  await assert.rejects(
    lab.startPrimary(),
    /given to host-a as generation 1, on 20.*no record of ever having had it/,
  );
  lab.owner = "a";
  assert.equal((await a.control.statusInRole()).qemuPid, pid);

  await a.kill();
  rmSync(lab.disks.stateDirectory("a"), { recursive: true });
  await assert.rejects(
    lab.startPrimary(),
    /host-a, was given the VM as generation 1.*its disks may be blank or old/,
  );
});
