/** Failover's last step: giving a standby QEMU the composed state, upon which it runs. */

import { Socket } from "node:net";
import { type ComposedFrom, composeStream } from "../../codec/migration-compose.ts";
import { closeDescriptor, socketPair } from "../../os/socket.ts";
import type { Qmp } from "./qmp.ts";

const LOAD_TIMEOUT_MS = 10_000;

/**
 * Loads the state into a QEMU that was started with `-incoming defer` over the RAM image, and waits until its VM runs.
 * QEMU then announces the MAC addresses itself. Fails with what QEMU said; the standby is then of no more use.
 */
export async function runStandby(qmp: Qmp, from: ComposedFrom): Promise<void> {
  const running = Promise.withResolvers<void>();
  qmp.on("RESUME", () => running.resolve());
  qmp.on("closed", () => running.reject(new Error("the standby QEMU died while it loaded the state")));
  qmp.on("MIGRATION", (data) => {
    if ((data as { status: string }).status === "failed")
      running.reject(new Error("the standby QEMU refused the state; see its log"));
  });
  running.promise.catch(() => {});
  const [ours, qemus] = socketPair();
  await qmp.passDescriptor("remus-standby", qemus);
  closeDescriptor(qemus);
  const socket = new Socket({ fd: ours, readable: false, writable: true });
  socket.on("error", (error) => running.reject(error));
  await qmp.execute("migrate-incoming", { uri: "fd:remus-standby" });
  socket.cork();
  for (const part of composeStream(from)) socket.write(part);
  socket.uncork();
  socket.end();
  const timer = setTimeout(
    () => running.reject(new Error(`the standby QEMU did not run within ${LOAD_TIMEOUT_MS} ms`)),
    LOAD_TIMEOUT_MS,
  );
  try {
    await running.promise;
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

/** Has QEMU tell of its migration's states, so that a failed load is heard of. Long before failover, to save the round trip. */
export async function prepareStandby(qmp: Qmp): Promise<void> {
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
}
