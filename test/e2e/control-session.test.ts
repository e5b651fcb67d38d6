/**
 * A session of orders at two real guardians, line by line as it goes over their control sockets, beside what
 * is on record (test/golden/control-session.txt). What differs from run to run is left out: numbers, times,
 * texts that QEMU or the host writes. `GOLDEN=rewrite` writes the record anew.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { event, type HeardEvent } from "../../src/guardian/control/events.ts";
import { type Command, orders } from "../../src/guardian/control/orders.ts";
import { answer } from "../../src/guardian/control/requests.ts";
import { makeLab } from "./lab-session.ts";

const RECORD = join(import.meta.dirname, "../golden/control-session.txt");
const ANSWER_MS = 30_000;

/** Fields whose values are the same in each run. */
const STEADY = new Set([
  "about",
  "capture",
  "code",
  "id",
  "kind",
  "phase",
  "role",
  "state",
  "version",
  "vm",
  "way",
]);

/** What is the same in each run. */
function steady(value: unknown, name = ""): unknown {
  if (STEADY.has(name)) return value;
  if (name === "core") return "<the core's state>";
  if (name === "message") return String(value).replaceAll(/\d+/g, "<n>");
  if (typeof value === "number") return "<n>";
  if (typeof value === "string") return "<text>";
  if (Array.isArray(value)) return value.length === 0 ? [] : [steady(value[0])];
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, steady(one, key)]));
}

/** One end of a control socket, which writes down what it says and hears. */
class Session {
  readonly said: string[] = [];
  private readonly socket;
  private text = "";

  private constructor(socket: ReturnType<typeof createConnection>) {
    this.socket = socket;
    socket.setEncoding("utf8").on("data", (more: string) => {
      this.text += more;
    });
    socket.on("error", () => {});
  }

  static async connect(t: TestContext, path: string): Promise<Session> {
    const socket = createConnection(path);
    t.after(() => socket.destroy());
    await once(socket, "connect");
    return new Session(socket);
  }

  /** Says a line, and waits for the answer to it. */
  async say(line: string): Promise<Record<string, unknown>> {
    this.said.push(`> ${line}`);
    this.socket.write(`${line}\n`);
    const heard = await this.next();
    assert.deepEqual(answer.parse(heard), heard, `an answer is what its schema says: ${line}`);
    this.said.push(`< ${JSON.stringify(steady(heard))}`);
    return heard;
  }

  /** An order, its answer looked at by its schema. */
  async order(command: Command, args?: Record<string, unknown>): Promise<Record<string, unknown>> {
    const heard = await this.say(JSON.stringify({ id: 1, command, arguments: args }));
    // A field that the schema does not have would be missing in what it makes of it.
    if ("result" in heard)
      assert.deepEqual(orders[command].result.parse(heard.result), heard.result, command);
    return heard;
  }

  private async next(): Promise<Record<string, unknown>> {
    while (!this.text.includes("\n"))
      await once(this.socket, "data", { signal: AbortSignal.timeout(ANSWER_MS) });
    const end = this.text.indexOf("\n");
    const line = this.text.slice(0, end);
    this.text = this.text.slice(end + 1);
    return JSON.parse(line) as Record<string, unknown>;
  }
}

test("a session of orders at both hosts is what is on record", async (t) => {
  const phases: Record<string, string[]> = { a: [], b: [] };
  const lab = await makeLab(t, {
    guest: "echo",
    disks: [{ mebibytes: 16, use: "data" }],
    retryMs: 600_000,
    // A busy machine shall not look like a host that has failed.
    detectionMs: 10_000,
    onEvent: (host, heard: HeardEvent) => {
      assert.deepEqual(event.parse(heard), heard);
      if (heard.kind === "phase") phases[host]!.push(`${heard.role} ${heard.phase}`);
    },
  });
  await lab.start();
  const [a, b] = await Promise.all(
    ["a", "b"].map((host) => Session.connect(t, join(lab.directory, host, "control.sock"))),
  );

  await a!.say("what?");
  await a!.say("5");
  await a!.say('{"id":1}');
  await a!.say('{"id":1,"command":"dance"}');
  await a!.say('{"id":1,"version":2,"command":"status"}');
  await a!.say('{"id":"text","version":1,"command":"proceed"}');
  await a!.say('{"command":"stop"}');
  await a!.order("status");
  await a!.order("status", { verbose: true });
  await a!.order("hold");
  await a!.order("switchover");
  await a!.order("samples", { from: -1 });
  await b!.order("status");
  await b!.order("test-failover", { action: "start" });
  await b!.order("test-failover", { action: "begin" });
  await b!.order("start-here");
  await b!.order("start-here", { force: true });
  await b!.order("start-here", { runsNowhereElse: "yes" });
  await b!.order("start-here", { runsNowhereElse: true });
  await b!.order("protect");

  await a!.order("protect");
  await a!.order("protect");
  await a!.order("hold", { atEpoch: "next" });
  await a!.order("hold", { atEpoch: 0 });
  await a!.order("hold");
  await b!.order("flush-disks");
  await a!.order("status");
  await b!.order("status");
  await a!.order("proceed");
  await a!.order("resume");
  await a!.order("samples");
  await a!.order("reset-statistics");
  await b!.order("start-here", { runsNowhereElse: true });
  await b!.order("test-failover", { action: "status" });
  await b!.order("test-failover", { action: "start" });
  await b!.order("test-failover", { action: "start" });
  await b!.order("test-failover", { action: "stop" });
  await a!.order("stop");
  await a!.order("status");
  await b!.order("quit");
  await a!.order("quit");

  const events = Object.entries(phases).map(([host, all]) => `events of host ${host}: ${all.join(", ")}`);
  const now = `${["host a", ...a!.said, "", "host b", ...b!.said, "", ...events].join("\n")}\n`;
  if (process.env.GOLDEN === "rewrite") await writeFile(RECORD, now);
  assert.deepEqual(now.split("\n"), (await readFile(RECORD, "utf8")).split("\n"));
});
