/**
 * An operator's orders need no program that nobody has installed: the answer is printed, and the status tells
 * how it went.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OrderRefused } from "../../src/guardian/control/refusal.ts";
import { ControlSocket } from "../../src/guardian/control/socket.ts";

const project = join(import.meta.dirname, "../..");

/** The program as the README has it, by the name that package.json gives it. */
function order(...words: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  const [, file] = /^node (\S+)$/.exec(
    (JSON.parse(readFileSync(join(project, "package.json"), "utf8")) as { scripts: { order: string } })
      .scripts.order,
  )!;
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [join(project, file!), ...words],
      { timeout: 20_000 },
      (error, stdout, stderr) => resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
  });
}

async function guardian(t: TestContext): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), "remus-order-"));
  const control = new ControlSocket(join(directory, "control.sock"));
  t.after(() => {
    control.close();
    rmSync(directory, { recursive: true });
  });
  await control.take({
    hold: ({ atEpoch }) => ({ epoch: atEpoch }),
    protect: () => {
      throw new OrderRefused("wrong-state", "the VM is syncing");
    },
  });
  return join(directory, "control.sock");
}

test("an order's answer is printed, and a refusal is told in the guardian's words, with status 1", async (t) => {
  const path = await guardian(t);
  const done = await order(path, "hold", '{"atEpoch":40}');
  assert.deepEqual([done.status, JSON.parse(done.stdout)], [0, { epoch: 40 }]);
  const refused = await order(path, "protect");
  assert.deepEqual([refused.status, refused.stdout], [1, ""]);
  assert.match(refused.stderr, /the VM is syncing \[wrong-state\]/);
});

test("wrong use and a guardian that is not there have a sentence and a status each, and nothing is sent", async (t) => {
  const path = await guardian(t);
  assert.match((await order()).stderr, /usage: npm run order/);
  const notJson = await order(path, "hold", "atEpoch=40");
  assert.equal(notJson.status, 64);
  assert.match(notJson.stderr, /no JSON object: atEpoch=40/);
  const nobody = await order(`${path}.other`, "status");
  assert.equal(nobody.status, 2);
  assert.match(nobody.stderr, /no guardian listens at .*other/);
});
