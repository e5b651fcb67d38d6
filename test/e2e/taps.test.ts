/** I4: what becomes of a standby's tap costs clients time at the worst, and never the VM. */
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { assertUnharmed, eventually, GRACE_MS, protectedLab } from "./lab-session.ts";

const run = promisify(execFile);

test("a tap that is set down on the backup is an alarm; the VM that is taken over has it up again, and its clients go on (I4)", async (t) => {
  const alarms: string[] = [];
  const { lab, client } = await protectedLab(t, {
    onEvent: (host, { about, kind, raised, text }) => {
      if (kind === "alarm" && about === "tap") alarms.push(`${host} ${raised}: ${text}`);
    },
  });
  const [program, ...words] = lab.network.exec("b");
  await run(program!, [...words, "ip", "link", "set", "tap0", "down"]);
  await eventually("the backup's alarm", () => alarms.some((text) => /^b true: tap tap0 is down/.test(text)));
  await lab.kill("power");
  await lab.failedOver();
  await client.answers(50, GRACE_MS);
  await eventually("the end of the alarm", () => alarms.some((text) => text.startsWith("b false:")));
  await assertUnharmed(client);
});
