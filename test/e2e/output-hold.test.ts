/**
 * I5: the filter chain goes into a running VM and comes out of it, again and again, and its guest's output is
 * neither lost nor reordered nor doubled. Two streams look at that all the time: bulk TCP, many frames at
 * once, whose receiver counts what comes out of order, which is also what loss looks like; and echo replies,
 * each with its number, which must not come out of order or twice. Echoes may get lost: QEMU drops what comes
 * in for the guest at the moment in which a checkpoint stops the VM, and ping's socket has room for a dozen
 * replies.
 */
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { guestAddresses, type Lab } from "../../src/lab/lab.ts";
import { eventually, makeLab } from "./lab-session.ts";

const run = promisify(execFile);
const ROUNDS = 5;
const BULK_BYTES = 1 << 20;
const guest = guestAddresses[0].ipv4;

/** A child in the client's namespace, gone with the test. */
function inClient(t: TestContext, lab: Lab, command: readonly string[]): ChildProcess {
  const [program, ...words] = [...lab.network.exec("client"), ...command];
  const child = spawn(program!, words, { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  return child;
}

/** Numbers of the echo replies, in the order in which they come. */
function echoReplies(t: TestContext, lab: Lab): number[] {
  const replies: number[] = [];
  const ping = inClient(t, lab, ["busybox", "ping", "-i", "0.002", guest]);
  createInterface({ input: ping.stdout! }).on("line", (line) => {
    const sequence = /seq=(\d+)/.exec(line)?.[1];
    if (sequence !== undefined) replies.push(Number(sequence));
  });
  return replies;
}

/** Reads one large value from Redis after the other; a line for each that came whole. */
const BULK_READER = `
  const socket = require("node:net").connect(6379, "${guest}");
  const answer = ${BULK_BYTES} + "$${BULK_BYTES}\\r\\n\\r\\n".length;
  const set = ":${BULK_BYTES}\\r\\n".length;
  let missing = set;
  socket.write("SETRANGE bulk ${BULK_BYTES - 1} x\\r\\n");
  socket.on("data", (bytes) => {
    missing -= bytes.length;
    if (missing > 0) return;
    if (missing < 0) throw new Error(-missing + " bytes too many");
    console.log("whole");
    missing = answer;
    socket.write("GET bulk\\r\\n");
  });`;

/** How many values have come so far. */
function bulk(t: TestContext, lab: Lab): { values: number } {
  const seen = { values: 0 };
  const reader = inClient(t, lab, [process.execPath, "-e", BULK_READER]);
  createInterface({ input: reader.stdout! }).on("line", () => seen.values++);
  return seen;
}

/** What the client's kernel has counted. */
async function counted(lab: Lab, group: "Icmp" | "TcpExt", name: string): Promise<number> {
  const [program, ...words] = [...lab.network.exec("client"), "cat", "/proc/net/snmp", "/proc/net/netstat"];
  const { stdout } = await run(program!, words);
  const lines = stdout.split("\n").filter((line) => line.startsWith(`${group}:`));
  const [names, values] = lines.map((line) => line.split(" "));
  const at = names!.indexOf(name);
  assert.ok(at > 0, `this kernel counts ${name}`);
  return Number(values![at]);
}

/**
 * Segments that came to the client before one that was sent earlier. Loss in the midst of a stream looks the
 * same.
 */
const outOfOrder = (lab: Lab): Promise<number> => counted(lab, "TcpExt", "TCPOFOQueue");

test(`${ROUNDS} times in and out of a running VM under traffic: none of its output lost, doubled or out of order`, async (t) => {
  const lab = await makeLab(t, {});
  await lab.start();
  const replies = echoReplies(t, lab);
  const bytes = bulk(t, lab);
  const traffic = async (what: string): Promise<void> => {
    const [seen, values] = [replies.length, bytes.values];
    await eventually(
      `replies and values ${what}`,
      () => replies.length >= seen + 50 && bytes.values >= values + 2,
    );
  };
  await traffic("before");
  const before = await outOfOrder(lab);
  for (let round = 1; round <= ROUNDS; round++) {
    await lab.protect();
    await traffic(`protected, round ${round}`);
    const { droppedFrames } = await lab.primary.control.primaryStatus();
    assert.equal(droppedFrames, 0);
    await lab.stopProtection();
    await traffic(`unprotected again, round ${round}`);
  }
  const wrong = replies.flatMap((number, at) =>
    at > 0 && number <= replies[at - 1]! ? [`${number} after ${replies[at - 1]}`] : [],
  );
  assert.deepEqual(wrong, [], `replies out of order or doubled, of ${replies.length}`);
  assert.ok((await counted(lab, "Icmp", "InEchoReps")) <= (await counted(lab, "Icmp", "OutEchos")));
  assert.equal((await outOfOrder(lab)) - before, 0, `segments out of order, of ${bytes.values} MiB`);
});
