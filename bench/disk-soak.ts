/**
 * `npm run disk-soak -- WHAT`: what must never happen to disks, looked for again and again. See the files in disk-soak/.
 *
 *   primary [--kills 20] [--seed 1]   the VM's host is killed under load and brought up to date by records
 */
import { parseArgs } from "node:util";
import type { Lab } from "../src/lab/lab.ts";
import { primaryKilled } from "./disk-soak/primary-killed.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    kills: { type: "string", default: "20" },
    seed: { type: "string", default: "1" },
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
