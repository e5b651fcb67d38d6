/**
 * `npm run ram-checks -- [--checks 500] [--memory-mib 256] [--load busy|idle] [--without odd-ram,library]
 * [--json FILE]`: is RAM equal on both hosts at every checkpoint (I7)? One lab, its VM held at one checkpoint
 * after the other and compared byte for byte, many times a minute. A page that is lost once and written again
 * later is seen in no failover; here it is.
 *
 * `--without` takes aids against bugs of QEMU's software emulation away (src/hypervisor/qemu/tcg-aids.ts), so
 * that it can be told whether a QEMU still needs them. Ends with status 1 if a page differed.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";

const { values } = parseArgs({
  options: {
    checks: { type: "string", default: "500" },
    "memory-mib": { type: "string", default: "256" },
    load: { type: "string", default: "busy" },
    without: { type: "string", default: "" },
    json: { type: "string" },
  },
});
/** What the VM runs between two looks, so that each sees other pages. */
const CHECKPOINTS_BETWEEN = 3;
const hook = join(import.meta.dirname, "ram-checks/aids-hook.ts");
const without = values.without === "" ? [] : values.without.split(",");
for (const aid of without)
  if (!["odd-ram", "library"].includes(aid)) throw new Error(`there is no aid "${aid}": odd-ram or library`);

const lab = await Lab.create({
  memoryMiB: Number(values["memory-mib"]),
  load: values.load as "idle" | "busy",
  // How long a failure takes to be noticed is not the question here: comparing keeps the machine busy.
  detectionMs: 3000,
  guardianWords: () =>
    without.length === 0
      ? []
      : ["env", `REMUS_WITHOUT_AIDS=${without.join(",")}`, `NODE_OPTIONS=--import=${hook}`],
});
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => void lab.destroy().finally(() => process.exit(130)));
try {
  await lab.start();
  const client = lab.client();
  await client.answers(20, 30_000);
  await lab.protect();
  const differences: { readonly epoch: number; readonly pages: readonly number[] }[] = [];
  const started = performance.now();
  let checks = 0;
  for (let epoch = 0; checks < Number(values.checks); checks++) {
    const check = await lab.ramCheck(epoch);
    epoch = check.epoch + CHECKPOINTS_BETWEEN;
    if (check.differing.length === 0) continue;
    differences.push({ epoch: check.epoch, pages: check.differing });
    console.log(
      `checkpoint ${check.epoch}: ${check.differing.length} pages differ: ${check.differing.slice(0, 20)}`,
    );
  }
  const seconds = (performance.now() - started) / 1000;
  const { pauseMs, dirtyPages, qemuVersion, accelerator } = await lab.primary.control.primaryStatus();
  const { lost, wentBack, acked } = await client.finish();
  const report = {
    qemuVersion,
    accelerator,
    memoryMiB: Number(values["memory-mib"]),
    load: values.load,
    without,
    checks,
    checksThatDiffer: differences.length,
    differences,
    seconds,
    pauseP50Ms: pauseMs.p50,
    dirtyPagesP50: dirtyPages.p50,
  };
  console.log(
    `QEMU ${qemuVersion}, ${accelerator}, ${values["memory-mib"]} MiB, ${values.load}${without.length === 0 ? "" : `, without ${without.join(" and ")}`}: ` +
      `${checks} checks in ${seconds.toFixed(0)} s, ${differences.length} with a difference; pause median ${pauseMs.p50.toFixed(1)} ms, ` +
      `${dirtyPages.p50} dirty pages; client: ${acked} answers, ${lost} lost, ${wentBack} went back`,
  );
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
  process.exitCode = differences.length + lost + wentBack === 0 ? 0 : 1;
} catch (error) {
  console.error(await lastWords(lab));
  throw error;
} finally {
  await lab.destroy();
}
