// What signals mean to a guardian (docs/running.md), in a process of its own; and how a primary ends in
// order.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { mock, type TestContext, test } from "node:test";
import type { PrimaryEvent, PrimaryState } from "../../src/core/primary-protocol.ts";
import { meanings } from "../../src/guardian/host-signals.ts";
import { OrderlyEnd } from "../../src/guardian/orderly-end.ts";

const SRC = join(import.meta.dirname, "../../src");

/**
 * A process with nothing but signals and a role that says what it is told; exits when it is told to end at
 * once, or says so.
 */
const PROCESS = `
  import { HostSignals } from "${SRC}/guardian/host-signals.ts";
  const say = (text) => process.stdout.write(text + "\\n");
  const signals = new HostSignals({ info: say, warn: say, error: say });
  const attend = () => signals.attend({
    ending: { begin: () => say("begin"), now: () => process.exit(0) },
    uncaught: ({ message }) => say("uncaught " + message),
  });
  WHEN
  setInterval(() => {}, 1000);
  process.stdin.once("data", () => { throw new Error("a bug"); });
  say("ready");
`;

/** @param when the role begins: a statement */
function start(t: TestContext, when = "attend();") {
  const program = PROCESS.replace("WHEN", when);
  const child = spawn(process.execPath, ["--input-type=module", "--eval", program], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  let out = "";
  let heard = () => {};
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
    heard();
  });
  const said = async (text: string) => {
    while (!out.includes(text)) {
      const { promise, resolve } = Promise.withResolvers<void>();
      heard = resolve;
      await promise;
    }
  };
  return { child, said, out: () => out };
}

test("what is no reason to end is told and changes nothing; SIGTERM ends in order, and a second signal at once", async (t) => {
  const { child, out, said } = start(t);
  await said("ready");
  for (const [signal, meaning] of Object.entries(meanings)) {
    if (meaning !== "nothing") continue;
    child.kill(signal as NodeJS.Signals);
    await said(`${signal} was sent; it changes nothing here`);
  }
  child.kill("SIGPIPE");
  child.stdin.write("x");
  await said("uncaught a bug");
  assert.doesNotMatch(out(), /begin/);
  child.kill("SIGTERM");
  await said("begin");
  child.kill("SIGINT");
  const [status] = await once(child, "exit");
  assert.equal(status, 0);
  assert.match(out(), /SIGINT was sent again: this guardian ends at once/);
  // Node would open its debugger's port for whoever sends SIGUSR1.
  assert.doesNotMatch(out(), /Debugger/);
});

test("a guardian that has no role yet: SIGTERM waits for one or the other, a second signal ends it at once", async (t) => {
  const { child, out, said } = start(t, "signals.left.then(() => process.exit(0));");
  await said("ready");
  child.kill("SIGTERM");
  await said("ends in order");
  child.kill("SIGTERM");
  const [status] = await once(child, "exit");
  assert.equal(status, 0);
  assert.match(out(), /SIGTERM was sent again: this guardian ends at once/);
});

test("a role that begins after that is ended at once, too", async (t) => {
  const { child, out, said } = start(t, "signals.left.then(() => attend());");
  await said("ready");
  child.kill("SIGQUIT");
  const [status] = await once(child, "exit");
  assert.equal(status, 0);
  assert.doesNotMatch(out(), /begin/);
});

test("docs/running.md names every signal that is dealt with", () => {
  const text = readFileSync(join(import.meta.dirname, "../../docs/running.md"), "utf8");
  for (const signal of Object.keys(meanings)) assert.match(text, new RegExp(`\\b${signal}\\b`), signal);
});

interface Told {
  readonly done: string[];
  readonly end: OrderlyEnd;
  become(state: Partial<PrimaryState>): void;
}

/** @param switchover what becomes of it */
function primary(phase: PrimaryState["phase"], switchover: () => Promise<void> = async () => {}): Told {
  const done: string[] = [];
  let state = { phase, generation: 1, acked: 3 } as unknown as PrimaryState;
  const waiting: (() => void)[] = [];
  const become = (next: Partial<PrimaryState>) => {
    state = { ...state, ...next } as PrimaryState;
    for (const look of waiting.splice(0)) look();
  };
  const say = (level: string) => (text: string) => void done.push(`${level}: ${text}`);
  const end = new OrderlyEnd({
    state: () => state,
    feed: ({ type }: PrimaryEvent) => void done.push(type),
    orders: {
      leaves: async (left) => {
        while (state.phase === left) await new Promise<void>((look) => waiting.push(look));
      },
      switchover: () => {
        done.push("switchover");
        return switchover();
      },
    },
    refuseToMove: () => {},
    qemu: {
      kill: () => void done.push("kill"),
      qmp: { execute: async (command: string) => void done.push(command) },
    } as never,
    log: { info: () => {}, warn: say("warn"), error: say("error") },
    shutdownMs: 1000,
    onBegin: () => void done.push("rests"),
  });
  return { done, end, become };
}

const settle = async () => {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
};

test("I4: a protected VM is given to the backup, once however often that is asked", async () => {
  const { done, end } = primary("protected");
  end.begin();
  end.begin();
  await settle();
  assert.deepEqual(done, ["rests", "switchover"]);
  end.over();
});

test("I4: a protected VM that cannot be moved goes on at the backup from its last checkpoint", async () => {
  const { done, end } = primary("protected", async () => {
    throw new Error("the VM is not to be moved now");
  });
  end.begin();
  await settle();
  assert.equal(done.at(-1), "kill");
  end.over();
});

test("I5: a switchover that ends protection leaves the only copy here: its power button is pressed", async () => {
  const { become, done, end } = primary("protected", async () => {
    become({ phase: "ending" });
    throw new Error("the backup could not run it");
  });
  end.begin();
  await settle();
  become({ phase: "unprotected" });
  await settle();
  assert.deepEqual(
    done.filter((one) => !one.startsWith("warn")),
    ["rests", "switchover", "system_powerdown"],
  );
  end.over();
});

test("I5: a first pass is given up, and then the power button is pressed; while the arbiter is asked nothing is done", async () => {
  for (const [phase, first] of [
    ["syncing", ["stop-asked"]],
    ["arbitrating", []],
  ] as const) {
    const { become, done, end } = primary(phase);
    end.begin();
    await settle();
    assert.deepEqual(done, ["rests", ...first]);
    become({ phase: "unprotected" });
    await settle();
    assert.deepEqual(done, ["rests", ...first, "system_powerdown"]);
    end.over();
  }
});

test("a guest that does not heed its power button is told to quit after the time limit, and killed after five more seconds", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const { done, end } = primary("unprotected");
    end.begin();
    await settle();
    mock.timers.tick(1000);
    assert.deepEqual(done.at(-1), "quit");
    mock.timers.tick(5000);
    assert.deepEqual(done.at(-1), "kill");
    end.over();
  } finally {
    mock.timers.reset();
  }
});

test("a second signal kills at once", () => {
  const { done, end } = primary("unprotected");
  end.now();
  assert.deepEqual(done, ["kill"]);
});
