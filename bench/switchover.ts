/**
 * `npm run switchover -- [--times 20] [--guest linux|echo] [--load idle|busy] [--no-disk] [--json FILE]`:
 * planned switchovers there and back in one lab, under the eyes of one client: how long it was without an
 * answer each time, and what that time went into.
 *
 * `linux`: Redis over TCP, with what KVM or software emulation there is; a disk with its data, every write
 * synced, goes along unless `--no-disk` says otherwise. `echo`: a guest without an operating system
 * (guest/echo.S), over KVM alone, without a disk.
 *
 * Ends with status 1 if anything was lost, or the median of the gaps is above 100 ms; or if KVM runs no
 * firmware here, and `echo` was asked for.
 */

import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { FailoverTimes } from "../src/guardian/control/status.ts";
import { tryFirmware } from "../src/hypervisor/qemu/accelerator.ts";
import { otherHost } from "../src/lab/configuration.ts";
import { longestGap } from "../src/lab/gap-watch.ts";
import { Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";
import { monotonicMs } from "../src/os/monotonic.ts";
import { type Move, moveTable, percentile } from "./switchover/move.ts";

const { values } = parseArgs({
  options: {
    times: { type: "string", default: "20" },
    guest: { type: "string", default: "linux" },
    load: { type: "string", default: "idle" },
    "no-disk": { type: "boolean", default: false },
    json: { type: "string" },
  },
});
const MOST_MS = 100;
const GRACE_MS = 30_000;
const ANSWERS = 20;

if (values.guest !== "linux" && values.guest !== "echo")
  fail(`there is no guest "${values.guest}": say linux or echo`);
const guest: "linux" | "echo" = values.guest;
if (guest === "echo") {
  const firmware = await tryFirmware({ accelerator: "kvm" });
  if (!firmware.up) fail(`KVM does not run firmware here: ${firmware.why}`);
}

/** When the VM was last handed over. */
let handedOverMs = Number.NaN;
const lab = await Lab.create({
  guest,
  ...(guest === "echo"
    ? { accelerator: "kvm" as const }
    : {
        load: values.load as "idle" | "busy",
        disks: values["no-disk"] ? [] : [{ mebibytes: 128, use: "data" as const }],
      }),
  // How long a failure takes to be noticed is not the question here: a busy machine shall not look like one.
  detectionMs: 1000,
  onEvent: (_host, { phase }) => {
    if (phase === "handing-over") handedOverMs = monotonicMs();
  },
});
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => void lab.destroy().finally(() => process.exit(130)));
try {
  await lab.start();
  const client = lab.client();
  await client.answers(ANSWERS, GRACE_MS);
  await lab.protect();
  const moves: Move[] = [];
  for (let time = 1; time <= Number(values.times); time++) {
    await lab.untilProtected();
    await client.answers(ANSWERS, GRACE_MS);
    const { gapMs } = await longestGap(client, async () => {
      await lab.switchover();
      await client.answers(ANSWERS, GRACE_MS);
    });
    const { failover } = await lab.primary.control.primaryStatus();
    const times = failover as Required<FailoverTimes>;
    const { detectedAtMs: heardMs, grantedAtMs: grantedMs, imagesFreeAtMs: imagesMs } = times;
    const { loadedAtMs: loadedMs, runningAtMs: runningMs } = times;
    const takeoverMs = runningMs - heardMs;
    moves.push({ to: lab.owner, gapMs, handedOverMs, heardMs, grantedMs, imagesMs, loadedMs, runningMs });
    console.log(
      `${String(time).padStart(3)}: ${otherHost(lab.owner)} to ${lab.owner}: the client waited ${gapMs.toFixed(0)} ms, ${takeoverMs.toFixed(0)} ms of it from HANDOVER to the VM running`,
    );
  }
  await lab.untilProtected();
  const { disks, differing } = await lab.ramCheck(0, { disks: true });
  const blocks = disks.reduce((sum, { offsets }) => sum + offsets.length, 0);
  const { acked, connections, gaps, lost, repeated, resets, wentBack } = await client.finish();
  console.log(`\n${moveTable(moves, gaps)}`);
  console.log(
    `client: ${connections} connection, ${resets} resets, ${acked} answers, ${lost} lost, ${wentBack} went back, ${repeated} repeated; ` +
      `in the end ${differing.length} RAM pages and ${blocks} disk blocks differ`,
  );
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(moves, null, 2)}\n`);
  const harmed = lost + wentBack + repeated + resets + differing.length + blocks + (connections - 1);
  const slow =
    percentile(
      moves.map(({ gapMs }) => gapMs),
      0.5,
    ) > MOST_MS;
  process.exitCode = harmed === 0 && !slow ? 0 : 1;
} catch (error) {
  console.error(await lastWords(lab));
  throw error;
} finally {
  await lab.destroy();
}

function fail(why: string): never {
  console.error(why);
  process.exit(1);
}
