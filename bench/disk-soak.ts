/**
 * `npm run disk-soak -- WHAT`: what must never happen to disks, looked for again and again. See the files in
 * disk-soak/.
 *
 *   primary [--kills 20] [--seed 1]     the VM's host is killed under load and brought up to date by records
 *   backup [--kills 20] [--seed 1]      the backup's host is killed while it commits: the mixture is no image
 *   pressure [--seconds 8]              the guest writes faster than the link takes: no memory grows
 *   fsync [--seeds 20] [--seed 1]       the VM's host is killed while the guest appends and syncs
 *   resync [--mib 2048] [--solo 60]     a host returns to a large disk of which a hundredth has changed
 */
import { parseArgs } from "node:util";
import type { Lab } from "../src/lab/lab.ts";
import { backupKilled } from "./disk-soak/backup-killed.ts";
import { primaryKilled } from "./disk-soak/primary-killed.ts";
import { returnedLate } from "./disk-soak/returned-late.ts";
import { slowBackup } from "./disk-soak/slow-backup.ts";
import { syncedRecords } from "./disk-soak/synced-records.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    kills: { type: "string", default: "20" },
    seed: { type: "string", default: "1" },
    seeds: { type: "string", default: "20" },
    mib: { type: "string", default: "2048" },
    seconds: { type: "string", default: "8" },
    solo: { type: "string", default: "60" },
  },
});

let lab: Lab | undefined;
const onLab = (made: Lab) => {
  lab = made;
};
process.once("SIGINT", () => void lab?.destroy().finally(() => process.exit(130)));
const beganMs = performance.now();
const say = (text: string) =>
  console.log(`${((performance.now() - beganMs) / 1000).toFixed(1).padStart(6)} s  ${text}`);

const soaks: Readonly<Record<string, () => Promise<number>>> = {
  primary: () => primaryKilled({ kills: Number(values.kills), seed: Number(values.seed), say }, onLab),
  backup: () => backupKilled({ kills: Number(values.kills), seed: Number(values.seed), say }, onLab),
  pressure: () => slowBackup({ seconds: Number(values.seconds), say }, onLab),
  fsync: () => syncedRecords({ seeds: Number(values.seeds), seed: Number(values.seed), say }, onLab),
  resync: () => returnedLate({ mebibytes: Number(values.mib), soloSeconds: Number(values.solo), say }, onLab),
};

const soak = soaks[positionals[0] ?? ""];
if (soak === undefined) {
  console.error(`say what: ${Object.keys(soaks).join(", ")}`);
  process.exit(64);
}
const wrong = await soak().catch((error: Error) => {
  console.error(error.stack);
  return 1;
});
console.log(wrong === 0 ? "nothing went wrong" : `${wrong} WENT WRONG`);
process.exit(wrong === 0 ? 0 : 1);
