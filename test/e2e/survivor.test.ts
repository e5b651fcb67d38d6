/**
 * A survivor does not die of a trifle (I5), and a host's signals mean what docs/running.md says: through one
 * life of a VM, in which its replication address goes with the host that fails, guardians are sent what
 * terminals, shells and service managers send, and are asked to end in each role.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import type { HeardEvent } from "../../src/guardian/control/events.ts";
import type { Lab } from "../../src/lab/lab.ts";
import { processRuns } from "../../src/lab/leftovers.ts";
import type { HostName } from "../../src/lab/namespaces.ts";
import { assertUnharmed, eventually, GRACE_MS, phaseOf, protectedLab } from "./lab-session.ts";

const run = promisify(execFile);
const HARMLESS = ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGXFSZ", "SIGPIPE"] as const;

test("A ends by SIGTERM, and the VM moves; B's QEMU is sent SIGTERM as A's address is gone; then nobody is left to give the VM to", async (t) => {
  const alarms = new Set<string>();
  const onEvent = (host: string, { kind, about, raised }: HeardEvent) => {
    if (kind !== "alarm") return;
    if (raised === true) alarms.add(`${host} ${about}`);
    else alarms.delete(`${host} ${about}`);
  };
  const { lab, client } = await protectedLab(t, {
    detectionMs: 500,
    retryMs: 500,
    shutdownMs: 3000,
    onEvent,
  });
  const goesOn = () => client.answers(20, GRACE_MS);

  // What is no reason to end, sent to either role; and QEMU is out of reach of what is sent to a group or by
  // a terminal.
  for (const host of ["a", "b"] as const) for (const signal of HARMLESS) lab.guardianOf(host).signal(signal);
  await goesOn();
  assert.equal(await phaseOf(lab.guardianOf("a")), "protected");
  assert.equal(await phaseOf(lab.guardianOf("b")), "armed");
  for (const host of ["a", "b"] as const) {
    const pid = await lab.qemuPid(host);
    assert.deepEqual(groupAndSession(pid), { group: pid, session: pid }, `QEMU of ${host}`);
  }

  // Protected: the VM moves, and the guardian ends with 0.
  const first = await lab.qemuPid("a");
  lab.guardianOf("a").signal("SIGTERM");
  assert.equal(await lab.guardianOf("a").exited, 0);
  assert.ok(!processRuns(first));
  assertNothingLeft(lab, "a");
  await lab.failedOver();
  await goesOn();

  // B has nobody to protect the VM towards, until A returns with the file that it always had.
  await lab.returnHost();
  await lab.untilProtected();
  await goesOn();

  // The address by which A is called goes as B fails: A takes over all the same, and is called there again
  // when the address is back.
  await ip(lab, "a", "addr", "del", "10.78.0.1/30", "dev", "repl");
  const second = await lab.qemuPid("b");
  process.kill(second, "SIGTERM");
  await lab.failedOver();
  await goesOn();
  assert.equal(await lab.guardianOf("b").exited, 1, "QEMU that a host ends is no guest that has shut down");
  await eventually("an alarm says that A cannot listen", () => alarms.has("a listen"));
  await ip(lab, "a", "addr", "add", "10.78.0.1/30", "dev", "repl");
  await eventually("A listens again", () => !alarms.has("a listen"));
  await goesOn();
  await assertUnharmed(client);

  // A backup that is asked to end ends tidily; the VM runs on.
  await lab.returnHost();
  await lab.untilProtected();
  lab.guardianOf("b").signal("SIGINT");
  assert.equal(await lab.guardianOf("b").exited, 0);
  assertNothingLeft(lab, "b");
  await assertInBridge(lab, "b");
  await eventually("A runs the VM alone", async () => (await phaseOf(lab.guardianOf("a"))) === "unprotected");

  // Unprotected: the guest's power button, which this guest does not heed, and then the end.
  const third = await lab.qemuPid("a");
  lab.guardianOf("a").signal("SIGHUP");
  lab.guardianOf("a").signal("SIGTERM");
  assert.equal(await lab.guardianOf("a").exited, 0);
  assert.ok(!processRuns(third));
  assertNothingLeft(lab, "a");
  await assertInBridge(lab, "a");
  const log = readFileSync(lab.guardianOf("a").logFile, "utf8");
  assert.match(log, /SIGHUP was sent; it changes nothing here/);
  assert.match(log, /its power button is pressed/);
  assert.match(log, /has not ended within 3000 ms/);
});

function groupAndSession(pid: number): { group: number; session: number } {
  // Behind the name, which may have blanks: state, parent, group, session.
  const [, , group, session] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ");
  return { group: Number(group), session: Number(session) };
}

/** No RAM image, and no socket. */
function assertNothingLeft(lab: Lab, host: HostName): void {
  const folder = join(lab.directory, host);
  const images = join(folder, "image");
  const left = [...(existsSync(images) ? readdirSync(images) : []), ...readdirSync(folder)];
  assert.deepEqual(
    left.filter((name) => /\.(ram|sock)$|^bridges/.test(name)),
    [],
    `left on ${host}`,
  );
}

async function assertInBridge(lab: Lab, host: HostName): Promise<void> {
  const { stdout } = await ip(lab, host, "-j", "link", "show", "tap0");
  assert.equal((JSON.parse(stdout) as { master?: string }[])[0]!.master, "br0");
}

function ip(lab: Lab, host: HostName, ...words: string[]) {
  const [program, ...prefix] = lab.network.exec(host);
  return run(program!, [...prefix, "ip", ...words]);
}
