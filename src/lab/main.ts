/**
 * `npm start`: the demo and its options; `npm run circle`: host A dies, returns and gets its VM back, several
 * times.
 */
import { Command, InvalidArgumentError, Option } from "commander";
import { type CircleOptions, circleSucceeded, circleSummary, runCircle } from "./circle.ts";
import { type DemoOptions, type DemoReport, runDemo, succeeded } from "./demo.ts";
import type { Lab } from "./lab.ts";
import { acquirePrivilege } from "./rootless.ts";
import { completeSearchPath } from "./search-path.ts";

const kills = ["power", "qemu", "guardian", "link"];

function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < least || value > most)
      throw new InvalidArgumentError(`must be a whole number from ${least} to ${most}`);
    return value;
  };
}

const program = new Command("npm start --").description(
  "Boots a VM on host A, protects it, kills host A, and lets the VM go on on host B under the eyes of a TCP client.",
);
program
  .command("demo", { isDefault: true })
  .option("--interval <ms>", "from one checkpoint to the next", wholeNumber(1, 10_000), 25)
  .option(
    "--detection <ms>",
    "of silence, after which a host is lost; more on a busy machine",
    wholeNumber(75, 60_000),
    200,
  )
  .option(
    "--seconds <n>",
    "how long the VM is protected, at most, before host A is killed",
    wholeNumber(1, 3600),
    30,
  )
  .addOption(new Option("--load <kind>", "what the guest does").choices(["idle", "busy"]).default("idle"))
  .option("--seed <n>", "chooses the instant of the kill", wholeNumber(0, 2 ** 31), Date.now() % 1000)
  .addOption(new Option("--kill <kind>", "how host A fails").choices(kills).default("power"))
  .option("--json <file>", "write the figures to this file")
  .option("--no-ram-checks", "do not hold the VM now and then to compare its RAM (for timing)")
  .action(async (given) => {
    const options: DemoOptions = { ...given, intervalMs: given.interval, detectionMs: given.detection };
    process.exitCode = await demo(options);
  });

program
  .command("circle")
  .description(
    "Host A loses power, host B carries on, host A returns, and the VM moves home: several times, with one client.",
  )
  .option("--rounds <n>", "how often", wholeNumber(1, 1000), 5)
  .option("--disk-mib <n>", "size of the VM's disk", wholeNumber(16, 16 << 10), 256)
  .addOption(new Option("--load <kind>", "what the guest does").choices(["idle", "busy"]).default("busy"))
  .option("--seed <n>", "chooses the instants of the kills", wholeNumber(0, 2 ** 31), 1)
  .option("--json <file>", "write the figures to this file")
  .action(async (given) => {
    const say = (text: string) => process.stdout.write(`${text}\n`);
    process.exitCode = await circle({ ...given, say });
  });

async function demo(options: DemoOptions): Promise<number> {
  const report = await stoppable((onLab) => runDemo(options, onLab));
  process.stdout.write(summaryOf(report));
  return succeeded(report) ? 0 : 1;
}

async function circle(options: CircleOptions): Promise<number> {
  const report = await stoppable((onLab) => runCircle(options, onLab));
  process.stdout.write(circleSummary(report));
  return circleSucceeded(report) ? 0 : 1;
}

/** Runs something in a lab that is taken down on Ctrl-C. */
async function stoppable<Report>(run: (onLab: (lab: Lab) => void) => Promise<Report>): Promise<Report> {
  let lab: Lab | undefined;
  let stopping = false;
  const stop = async (): Promise<void> => {
    stopping = true;
    await lab?.destroy();
    process.stdout.write("\nstopped; everything is cleaned up\n");
    process.exit(130);
  };
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  try {
    return await run((made) => {
      lab = made;
    });
  } catch (error) {
    // That its lab went away is no news then.
    if (stopping) await new Promise(() => {});
    throw error;
  }
}

function headline(report: DemoReport): string {
  if (!succeeded(report)) return "Something went wrong; see the figures.";
  return report.kill.kind === "link"
    ? "One host went on, and the other stopped."
    : "The VM outlived its host.";
}

function summaryOf(report: DemoReport): string {
  const { client, disk, failover, pauseMs, dirtyPages, kill } = report;
  const ms = (value: number) => (Number.isFinite(value) ? `${value.toFixed(0)} ms` : "not known");
  const lines = [
    "",
    headline(report),
    `  killed        ${kill.kind}, ${kill.atSeconds.toFixed(1)} s after protection began (seed ${kill.seed})`,
    `  failover      noticed after ${ms(failover.detectMs)}, guest ran ${ms(failover.resumeMs)} later; client's outage ${ms(failover.outageMs)}`,
    `  client        ${client.connections} connection, ${client.resets} resets, ${client.acked} answers, ${client.lost} lost, ${client.wentBack} went back, longest gap ${ms(client.longestGapMs)}`,
    `  checkpoints   ${report.checkpoints}, ${report.checkpointsPerSecond.toFixed(1)} a second, ${(report.bytesOnWire / 2 ** 20).toFixed(0)} MiB on the wire`,
    `  pause         median ${pauseMs.p50.toFixed(1)} ms, p95 ${pauseMs.p95.toFixed(1)} ms, p99 ${pauseMs.p99.toFixed(1)} ms, max ${pauseMs.max.toFixed(1)} ms`,
    `  dirty pages   median ${dirtyPages.p50}, p95 ${dirtyPages.p95}, max ${dirtyPages.max}`,
    `  RAM           compared byte for byte ${report.ramChecks} times, ${report.ramMismatches} differences`,
    `  disk          compared ${disk.checks} times, ${disk.mismatches} differences; file system at the end ${disk.fsckClean ? "clean" : "DAMAGED"}`,
    ...(disk.resyncBytes === null
      ? []
      : [
          `  resync        ${disk.resyncBytes} bytes brought the returned host's disk up to date (by ${disk.resyncWay})`,
        ]),
    ...(kill.kind === "link"
      ? [
          `  note          only the link was cut: the witness gave the VM to host ${report.goesOn.toUpperCase()}`,
        ]
      : []),
    "",
  ];
  return `${lines.join("\n")}\n`;
}

completeSearchPath(process.env);
const privilege = await acquirePrivilege();
if (privilege.kind === "ranInside") process.exit(privilege.status);
if (privilege.kind === "refused") {
  process.stderr.write(`${privilege.why}\n`);
  process.exit(1);
}
try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
