/**
 * I5: a VM whose image has no room stands still, is said to, and goes on when there is room; the other host
 * does not take it over.
 */
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { test } from "node:test";
import { ownStorage, PATIENT } from "./disk-session.ts";
import { assertUnharmed, eventually, GRACE_MS, makeLab, phaseOf } from "./lab-session.ts";

test("the primary's image has no room, unprotected and protected, then the backup's: alarms, and all go on by themselves (I5)", async (t) => {
  let alarms: { about: string; raised: boolean; text: string }[] = [];
  const told: string[] = [];
  const lab = await makeLab(t, {
    ...PATIENT,
    disks: [{ mebibytes: 256, use: "load" }],
    onEvent: (host, { about, kind, raised, text }) => {
      if (host !== "a" || text === undefined) return;
      told.push(text);
      if (kind === "alarm") alarms.push({ about: about!, raised: raised!, text });
    },
  });
  const storage = {
    a: await ownStorage(lab, "a", 0, 300),
    b: await ownStorage(lab, "b", 0, 300),
  };
  const alarm = async (about: string, raised: boolean, text = /./) => {
    const is = () =>
      alarms.some((one) => one.about === about && one.raised === raised && text.test(one.text));
    await eventually(`alarm ${about} ${raised ? "raised" : "lowered"}, ${text}`, is, GRACE_MS);
  };
  await lab.start();
  const client = lab.client();
  await client.answers(20, GRACE_MS);
  const { qemuPid } = await lab.primary.control.statusInRole();

  const fillsUp = async () => {
    alarms = [];
    const filler = await storage.a.fill();
    await alarm(
      "disk",
      true,
      /the VM stands still: .*write.*\/a\/.*no space left.* \d+\.\d MiB left\. Make room/,
    );
    await eventually("status says why", async () => {
      const { standstill } = await lab.primary.control.primaryStatus();
      return standstill?.state === "io-error";
    });
    await rm(filler);
    await alarm("disk", false);
    await client.answers(20, GRACE_MS);
  };
  await fillsUp();
  await lab.protect();
  await client.answers(20, GRACE_MS);
  await fillsUp();
  assert.equal(await phaseOf(lab.primary), "protected");
  assert.equal((await lab.primary.control.statusInRole()).qemuPid, qemuPid);

  alarms = [];
  const filler = await storage.b.fill();
  await alarm("protection", true);
  assert.match(
    told.join("\n"),
    /the backup cannot go on: .*disk0.*(No space|ENOSPC).*Make room for .*\/b\//i,
  );
  await client.answers(20, GRACE_MS);
  await rm(filler);
  await alarm("protection", false);
  await eventually("it is protected", async () => (await phaseOf(lab.primary)) === "protected", GRACE_MS);
  await assertUnharmed(client);
});
