/** I4: the backup need not wait for the process of a VM that was killed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { killVm } from "../../src/guardian/primary/kill-vm.ts";

test("the link is closed when QEMU is killed, though its process does not end; that is told with its state", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const done: string[] = [];
  const qemu = {
    kill: () => void done.push("kill"),
    exited: new Promise<string>(() => {}),
    processState: "D",
  };
  killVm(qemu, { close: () => void done.push("close") }, { error: (text: string) => void done.push(text) });
  assert.deepEqual(done, ["kill", "close"]);
  t.mock.timers.tick(5_000);
  assert.match(done[2]!, /does not end: it waits for storage: look at this host's disks/);
});
