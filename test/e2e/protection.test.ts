/** I5: protection starts, stops and starts again on a running VM; losing it never takes the VM down. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { OrderFailed } from "../../src/guardian/control/client.ts";
import { guestAddresses } from "../../src/lab/lab.ts";
import {
  assertRamEqual,
  assertUnharmed,
  eventually,
  GRACE_MS,
  phaseOf,
  protectedLab,
} from "./lab-session.ts";

test("stopped and started three times in a row under load, RAM equal each time; then the backup hangs and comes back; then a failover", async (t) => {
  const { lab, client } = await protectedLab(t, { load: "busy", retryMs: 500 });
  for (let round = 0; round < 3; round++) {
    await lab.stopProtection();
    assert.equal(await phaseOf(lab.primary), "unprotected");
    assert.equal(await phaseOf(lab.backup), "waiting");
    await client.answers(20, GRACE_MS);
    await lab.protect();
    await client.answers(10, GRACE_MS);
    await assertRamEqual(lab);
  }

  // It hangs without closing: the VM goes on once the detection time is over.
  lab.backup.signal("SIGSTOP");
  await client.answers(50, GRACE_MS);
  assert.notEqual(await phaseOf(lab.primary), "protected");
  lab.backup.signal("SIGCONT");
  await lab.untilProtected();
  await client.answers(20, GRACE_MS);
  await lab.kill("power");
  await client.answers(50, GRACE_MS);
  await assertUnharmed(client);
});

test("the backup dies: the VM runs on alone, and says who is missing; a new backup protects it again; then the guest shuts itself down", async (t) => {
  const { lab, client } = await protectedLab(t, { load: "busy", retryMs: 60_000 });
  await lab.backup.kill();
  await client.answers(50, GRACE_MS);
  await eventually("the primary is unprotected", async () => (await phaseOf(lab.primary)) === "unprotected");
  await assert.rejects(lab.protect(), (error: OrderFailed) => {
    assert.ok(error instanceof OrderFailed);
    assert.match(
      error.message,
      /cannot reach backup 10\.78\.0\.2:7000: .*ECONNREFUSED.*start the backup guardian/,
    );
    return true;
  });
  await client.answers(20, GRACE_MS);
  await lab.startBackup();
  await lab.protect();
  await client.answers(20, GRACE_MS);
  await assertRamEqual(lab);
  await assertUnharmed(client);

  // The backup must not bring back what has ended of itself. Redis is process 1's only child that counts:
  // when it ends, the guest powers itself off. The end of this connection may be in the last epoch, which
  // nobody acknowledges.
  const [program, ...prefix] = lab.network.exec("client");
  execFile(
    program!,
    [
      ...prefix,
      "sh",
      "-c",
      `printf 'SHUTDOWN NOSAVE\\r\\n' | timeout 20 busybox nc ${guestAddresses[0].ipv4} 6379`,
    ],
    () => {},
  );
  assert.equal(await lab.primary.exited, 0, "the guardian ends in order");
  await eventually(
    "the backup stands by for the next",
    async () => (await phaseOf(lab.backup)) === "waiting",
  );
});
