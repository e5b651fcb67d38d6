// Two links between the hosts, on real QEMU: one of two lost is an event, not a failover (I4); both lost, one
// host goes on (I3).
import assert from "node:assert/strict";
import { test } from "node:test";
import type { HostName } from "../../src/lab/namespaces.ts";
import { assertRamEqual, assertUnharmed, eventually, protectedLab } from "./lab-session.ts";

const options = {
  skip: process.geteuid?.() === 0 ? false : "needs root, for namespaces and taps",
  timeout: 120_000,
};

test(
  "of two links one after the other is pulled and put back: no failover, an event, checkpoints go on; then both, and one host goes on",
  options,
  async (t) => {
    const alarms: { readonly host: HostName; readonly raised: boolean; readonly text: string }[] = [];
    const { lab, client } = await protectedLab(t, {
      links: 2,
      onEvent: (host, { about, kind, raised = false, text = "" }) => {
        if (kind === "alarm" && about === "path") alarms.push({ host, raised, text });
      },
    });
    const status = (host: HostName) => (host === "a" ? lab.primary : lab.backup).control.statusInRole();
    const allUp = () =>
      eventually("both paths are up at both hosts", async () => {
        const both = [await status("a"), await status("b")];
        return both.every(({ paths }) => paths.length === 2 && paths.every(({ up }) => up));
      });
    await allUp();
    const { generation } = await status("a");

    for (const [index, link] of (["link1", "link2"] as const).entries()) {
      alarms.length = 0;
      await lab.cut(link);
      for (const host of ["a", "b"] as const)
        await eventually(`host ${host} tells that ${link} is lost`, () =>
          alarms.some(
            (alarm) => alarm.host === host && alarm.raised && alarm.text.includes(`path ${index + 1} of 2`),
          ),
        );
      const { acked, paths } = await status("a");
      assert.deepEqual([paths[index]?.up, paths[1 - index]?.carries], [false, true]);
      await eventually("checkpoints go on", async () => (await status("a")).acked! > acked! + 20);
      await client.answers(20, 10_000);
      await assertRamEqual(lab);
      await lab.mend(link);
      await eventually(`both hosts tell that ${link} is back`, () =>
        (["a", "b"] as const).every((host) => alarms.some((alarm) => alarm.host === host && !alarm.raised)),
      );
      await allUp();
      const [a, b] = [await status("a"), await status("b")];
      assert.deepEqual(
        [a.role, a.phase, a.generation, b.role, b.phase, b.generation],
        ["primary", "protected", generation, "backup", "armed", generation],
      );
    }

    await lab.cut("link");
    const owner = await lab.decided();
    await client.answers(20, 10_000);
    await assertUnharmed(client);
    t.diagnostic(`with both links cut, host ${owner} went on`);
  },
);
