/**
 * COLO is switched on as the running QEMU wants it, whatever its version says. The answers are those of real
 * QEMUs.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setColo } from "../../src/hypervisor/qemu/colo-capability.ts";
import { QmpError } from "../../src/hypervisor/qemu/qmp.ts";

type Capabilities = Record<string, boolean>;

/** A QEMU's capabilities: all that is asked for is set, or nothing. */
class Answering {
  readonly now: Capabilities = { "x-colo": false, "return-path": false, events: false };
  private readonly objection: (wanted: Capabilities) => string | undefined;

  constructor(objection: (wanted: Capabilities) => string | undefined, before: Capabilities = {}) {
    this.objection = objection;
    Object.assign(this.now, before);
  }

  async execute<T>(command: string, args?: Record<string, unknown>): Promise<T> {
    assert.equal(command, "migrate-set-capabilities");
    const { capabilities } = args as { capabilities: { capability: string; state: boolean }[] };
    const wanted = {
      ...this.now,
      ...Object.fromEntries(capabilities.map(({ capability, state }) => [capability, state])),
    };
    const why = this.objection(wanted);
    if (why !== undefined) throw new QmpError(command, "GenericError", why);
    Object.assign(this.now, wanted);
    return {} as T;
  }
}

const before11 = () => undefined;
const from11 = (wanted: Capabilities) =>
  wanted["x-colo"] && !wanted["return-path"]
    ? "Capability 'x-colo' requires capability 'return-path'"
    : undefined;

test("a QEMU before 11 does COLO without a return path, also when somebody had it on", async () => {
  for (const left of [false, true]) {
    const qemu = new Answering(before11, { "return-path": left });
    await setColo(qemu, true);
    assert.deepEqual(qemu.now, { "x-colo": true, "return-path": false, events: true });
  }
});

test("a QEMU that wants a return path for COLO gets one, and has neither afterwards (I5)", async () => {
  const qemu = new Answering(from11);
  await setColo(qemu, true);
  assert.deepEqual(qemu.now, { "x-colo": true, "return-path": true, events: true });
  await setColo(qemu, false);
  assert.deepEqual(qemu.now, { "x-colo": false, "return-path": false, events: true });
});

test("another refusal is the caller's to hear, in QEMU's words, and nothing is set", async () => {
  const why = "QEMU compiled without replication module can't enable COLO";
  const qemu = new Answering((wanted) => (wanted["x-colo"] ? why : undefined));
  await assert.rejects(setColo(qemu, true), new QmpError("migrate-set-capabilities", "GenericError", why));
  assert.deepEqual(qemu.now, { "x-colo": false, "return-path": false, events: false });
});
