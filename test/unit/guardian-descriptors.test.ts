// I5: a process without file descriptors lives on, says so with a remedy, and takes callers again when there
// are some.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { ControlClient } from "../../src/guardian/control/client.ts";

/** Says each alarm in a line; takes all descriptors there are, or gives them back, at a line on its input. */
function program(socket: string): string {
  const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
  return `
    import { closeSync, openSync } from "node:fs";
    import { createInterface } from "node:readline";
    import { Worker } from "node:worker_threads";
    import { ControlSocket } from ${source("guardian/control/socket.ts")};
    import { DescriptorWatch } from ${source("guardian/watch/descriptor-watch.ts")};
    import { listen } from ${source("link/listen.ts")};
    const say = (text) => process.stdout.write(text + "\\n");
    const log = { info() {}, warn() {}, error() {} };
    const control = { publish: ({ raised, text }) => say((raised ? "raised " : "lowered ") + text) };
    const orders = new ControlSocket(${JSON.stringify(socket)});
    await orders.take({ status: () => ({ well: true }) });
    const door = await listen({ addresses: [{ host: "127.0.0.1", port: 0 }], vmId: new Uint8Array(16), host: "b",
      generation: () => 1, onPrimary() {}, heartbeatMs: 25, detectionMs: 500 });
    new DescriptorWatch({ log, control }, 20).begin();
    const taken = [];
    createInterface({ input: process.stdin }).on("line", (line) => {
      if (line === "give") for (const one of taken.splice(0)) closeSync(one);
      else try { for (;;) taken.push(openSync("/dev/null")); } catch (error) { say(error.code); }
      if (line === "work") new Worker("", { eval: true }).on("error", ({ message }) => say(message));
    }).on("close", () => process.exit());
    say("port " + door.ports[0]);
  `;
}

test("I5: without file descriptors a guardian's doors live on: an alarm with the remedy, and callers get in when there are some", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-descriptors-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const socket = join(directory, "control.sock");
  const limited = 'ulimit -n 160; exec "$0" "$@"';
  const args = ["-c", limited, process.execPath, "--input-type=module", "-e", program(socket)];
  const child = spawn("sh", args, { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const lines = createInterface({ input: child.stdout });
  const said: string[] = [];
  lines.on("line", (line) => said.push(line));
  const says = async (wanted: RegExp) => {
    while (!said.some((line) => wanted.test(line)))
      await once(lines, "line", { signal: AbortSignal.timeout(20_000) });
    return said.splice(
      said.findIndex((line) => wanted.test(line)),
      1,
    )[0]!;
  };
  const port = Number((await says(/^port /)).slice(5));

  child.stdin.write("work\n");
  await says(/^EMFILE/);
  await says(/Worker initialization failure: EMFILE/);
  assert.match(
    await says(/^raised /),
    /(EMFILE|file descriptors that this guardian may have).*neither the other host nor an operator.*LimitNOFILE=/,
  );
  // Who cannot be taken in is cut off, and does not hang.
  await assert.rejects(async () => await (await ControlClient.connect(socket)).ask("status"));
  const stranger = connect(port, "127.0.0.1");
  stranger.on("error", () => {});
  await once(stranger, "close", { signal: AbortSignal.timeout(20_000) });

  child.stdin.write("give\n");
  await says(/^lowered /);
  const client = await ControlClient.connect(socket);
  t.after(() => client.close());
  assert.deepEqual(await client.ask("status"), { well: true });
  assert.equal(child.exitCode, null);
});
