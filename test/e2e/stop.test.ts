/**
 * I5: stop wins, at whatever instant it comes. A protection is given up at each of the commands that it gives
 * to QEMU, while that is under way, and at its first checkpoints; then nothing of it is left in QEMU or in
 * this process, the VM runs, and the next one begins.
 */
import assert from "node:assert/strict";
import { readdirSync, readlinkSync } from "node:fs";
import { test } from "node:test";
import type { Protection } from "../../src/guardian/primary/protection.ts";
import type { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { eventually } from "./lab-session.ts";
import { SmallVm } from "./small-vm.ts";

/** Everything that a protection may leave, found without its own sweep. */
async function leftIn({ qemu, runDirectory }: SmallVm): Promise<string[]> {
  const { qmp } = qemu;
  type Named = Readonly<Record<string, string>>;
  const ask = (command: string, args = {}) => qmp.execute<Named[]>(command, args);
  const names = [
    ...(await ask("qom-list", { path: "/objects" }))
      .map(({ name }) => name!)
      .filter((name) => /remus/.test(name)),
    ...(await ask("query-chardev")).map(({ label }) => label!).filter((label) => /remus/.test(label)),
    ...(await ask("query-jobs")).map(({ id }) => `job ${id}`),
    ...(await ask("query-block-exports")).map(({ id }) => `export ${id}`),
    ...(await ask("query-yank")).map(({ type }) => `yank ${type}`).filter((one) => one !== "yank chardev"),
    ...(await ask("query-named-block-nodes", { flat: true }))
      .map((node) => node["node-name"]!)
      .filter((name) => !/^disk\d+(-file)?$/.test(name)),
  ];
  const capabilities = await qmp.execute<{ capability: string; state: boolean }[]>(
    "query-migrate-capabilities",
  );
  if (capabilities.some(({ capability, state }) => capability === "x-colo" && state)) names.push("x-colo");
  const { status } = await qmp.execute<{ status?: string }>("query-migrate");
  if (!["completed", "failed", "cancelled", undefined].includes(status)) names.push(`migration ${status}`);
  names.push(
    ...readdirSync(runDirectory).filter((name) => !/^(qmp|qmp-watchdog)\.sock$|^qemu\.log$/.test(name)),
  );
  return names;
}

/** Sockets and other things that are open, but for those that Node itself opens now and then. */
function open(pid: number | "self"): number {
  const directory = `/proc/${pid}/fd`;
  return readdirSync(directory).filter((fd) => {
    try {
      return readlinkSync(`${directory}/${fd}`).startsWith("socket:");
    } catch {
      return false;
    }
  }).length;
}

/**
 * Calls back as the `nth` command from now on is given; returns how many there have been, and an end to it.
 */
function atCommand(qmp: Qmp, nth: number, act: () => void): { readonly count: number; end(): void } {
  const { execute, passDescriptor } = qmp;
  const seen = { count: 0, end: () => Object.assign(qmp, { execute, passDescriptor }) };
  const counting = () => {
    if (++seen.count === nth) act();
  };
  Object.assign(qmp, {
    execute: (...args: Parameters<typeof execute>) => {
      counting();
      return execute.apply(qmp, args);
    },
    passDescriptor: (...args: Parameters<typeof passDescriptor>) => {
      counting();
      return passDescriptor.apply(qmp, args);
    },
  });
  return seen;
}

/** From the start to a first checkpoint; how many commands that took. */
async function once(small: SmallVm): Promise<number> {
  const seen = atCommand(small.qemu.qmp, Number.NaN, () => {});
  const protection = small.protect();
  await eventually("checkpoint 0", () => small.captured >= 0, 30_000);
  const { count } = seen;
  seen.end();
  await eventually("checkpoint 2", () => small.captured >= 2, 30_000);
  await small.stop(protection);
  return count;
}

async function stoppedAt(
  small: SmallVm,
  when: string,
  begin: (protection: () => Protection) => Promise<unknown>,
) {
  const protection = { is: undefined as Protection | undefined };
  await begin(() => protection.is!).catch((error: Error) => assert.fail(`${when}: ${error.message}`));
  assert.deepEqual(await leftIn(small), [], `left in QEMU after a stop ${when}`);
  assert.equal(await small.status(), "running", `the VM after a stop ${when}`);
}

test("I5: a stop at each command of a protection's start, and at its first checkpoints, undoes it whole", async (t) => {
  const small = await SmallVm.start(t, { disk: true });
  const { qmp } = small.qemu;
  const commands = await once(small);
  assert.ok(commands > 10, `${commands} commands`);
  const [ours, qemus] = [open("self"), open(small.qemu.pid)];
  for (let nth = 1; nth <= commands; nth++)
    await stoppedAt(small, `at command ${nth} of ${commands}`, async () => {
      const stopping = Promise.withResolvers<void>();
      const seen = atCommand(qmp, nth, () => {
        seen.end();
        // The command itself is given before whatever the end of the protection gives.
        queueMicrotask(() => small.stop(protection).then(stopping.resolve, stopping.reject));
      });
      const protection = small.protect();
      await stopping.promise;
    });
  for (const delay of [0, 1, 2, 3])
    await stoppedAt(small, `${delay} ms after checkpoint ${delay}`, async () => {
      const protection = small.protect();
      await eventually(`checkpoint ${delay}`, () => small.captured >= delay, 30_000);
      await small.stop(protection);
    });
  await stoppedAt(small, "at once", async () => small.stop(small.protect()));
  await stoppedAt(small, "before the start, which comes after it", async () => {
    const protection = small.make();
    await small.stop(protection);
    await assert.rejects(protection.start(), /given up/);
  });
  assert.ok((await once(small)) > 10, "the next one begins as ever");
  await small.counts();
  assert.deepEqual([open("self"), open(small.qemu.pid)], [ours, qemus], "sockets here and in QEMU");
});
