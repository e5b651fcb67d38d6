/**
 * `npm run debian-guest -- [--rounds 10] [--seconds 20] [--seed 1] [--json FILE]`: a whole Debian (systemd,
 * PostgreSQL 15, 512 MiB, standard virtio) loses its host in the midst of pgbench, again and again: four
 * connections from the client's namespace, a power failure at some instant, the host returns with its old
 * disk, the VM is protected again, and the next one fails. Each time no transaction may have failed, the sums
 * of all four tables must be equal, and the history must have as many rows as pgbench was told of.
 *
 * Needs pgbench and psql (Debian's postgresql-client and postgresql-contrib), and debootstrap to build the
 * guest, once. Ends with status 1 if something was lost.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { parseArgs, promisify } from "node:util";
import { random } from "../src/lab/demo.ts";
import { guestAddresses, Lab } from "../src/lab/lab.ts";
import { lastWords } from "../src/lab/last-words.ts";
import { debianGuest } from "./debian-guest/image.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "10" },
    seconds: { type: "string", default: "20" },
    seed: { type: "string", default: "1" },
    json: { type: "string" },
  },
});
const run = promisify(execFile);
const seconds = Number(values.seconds);
const server = ["-h", guestAddresses[0].ipv4, "-U", "postgres"];
const SUMS =
  "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), " +
  "(select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history), " +
  "(select count(*) from pgbench_history)";

interface Round {
  readonly killedAfterSeconds: number;
  readonly transactions: number;
  readonly failed: number;
  readonly sums: readonly number[];
  readonly historyRows: number;
  readonly right: boolean;
}

const guest = await debianGuest(console.log);
const lab = await Lab.create({
  memoryMiB: 512,
  virtio: "standard",
  boot: guest.boot,
  bootTimeoutMs: 300_000,
  disks: [{ mebibytes: guest.mebibytes, virtio: "standard", use: "idle", copyOf: guest.image }],
  // How long a failure takes to be noticed is not the question here.
  detectionMs: 1000,
});
let pgbench: ChildProcess | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    pgbench?.kill("SIGKILL");
    void lab.destroy().finally(() => process.exit(130));
  });
try {
  await lab.start();
  console.log(`Debian runs; PostgreSQL answers: ${await query("show server_version")}`);
  await lab.protect();
  let rows = Number(await query("select count(*) from pgbench_history"));
  const rounds: Round[] = [];
  for (let number = 1; number <= Number(values.rounds); number++) {
    const killedAfterSeconds = seconds * (0.2 + 0.6 * random(Number(values.seed) * 1000 + number));
    const { failed, transactions } = await benchWithFailure(killedAfterSeconds);
    const [accounts, branches, tellers, history, count] = (await query(SUMS)).split("|").map(Number);
    const sums = [accounts!, branches!, tellers!, history!];
    const equal = sums.every((sum) => sum === sums[0]);
    rows += transactions;
    const right = failed === 0 && equal && count === rows;
    rounds.push({ killedAfterSeconds, transactions, failed, sums, historyRows: count!, right });
    console.log(
      `round ${number}: power lost after ${killedAfterSeconds.toFixed(1)} s; ${transactions} transactions, ${failed} failed; ` +
        `sums ${equal ? "equal" : `DIFFER: ${sums.join(", ")}`}; history ${count} of ${rows} rows${right ? "" : "  WRONG"}`,
    );
    if (number === Number(values.rounds)) break;
    await lab.returnHost();
    await lab.protectAgain();
  }
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rounds, null, 2)}\n`);
  const right = rounds.filter((round) => round.right).length;
  console.log(`${right} of ${rounds.length} rounds right`);
  process.exitCode = right === rounds.length ? 0 : 1;
} catch (error) {
  console.error(await lastWords(lab));
  throw error;
} finally {
  pgbench?.kill("SIGKILL");
  await lab.destroy();
}

/** pgbench for `seconds`, and a power failure of the VM's host in its midst. */
async function benchWithFailure(afterSeconds: number): Promise<{ failed: number; transactions: number }> {
  const [program, ...prefix] = lab.network.exec("client");
  const words = [...server, "-n", "-c", "4", "-j", "1", "-T", String(seconds), "bench"];
  pgbench = spawn(program!, [...prefix, "pgbench", ...words], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [pgbench.stdout!, pgbench.stderr!])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  const ended = once(pgbench, "close");
  await Promise.race([ended, new Promise((later) => setTimeout(later, afterSeconds * 1000))]);
  if (pgbench.exitCode !== null) throw new Error(`pgbench ended before the failure:\n${output}`);
  await lab.kill("power");
  await lab.failedOver();
  const [status] = (await ended) as [number | null];
  pgbench = undefined;
  const processed = /^number of transactions actually processed: (\d+)/m.exec(output)?.[1];
  if (status !== 0 || processed === undefined) throw new Error(`pgbench failed (${status}):\n${output}`);
  const failed = Number(/^number of failed transactions: (\d+)/m.exec(output)?.[1] ?? 0);
  return { failed, transactions: Number(processed) };
}

async function query(sql: string): Promise<string> {
  const [program, ...prefix] = lab.network.exec("client");
  const { stdout } = await run(program!, [...prefix, "psql", ...server, "-d", "bench", "-Atc", sql]);
  return stdout.trim();
}
