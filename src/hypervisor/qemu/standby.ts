/** Failover's last steps: a standby QEMU is given the composed state, and then runs. */

import { Socket } from "node:net";
import { type ComposedFrom, composeStream } from "../../codec/migration-compose.ts";
import { closeDescriptor, socketPair } from "../../os/socket.ts";
import type { Qmp } from "./qmp.ts";
import { QmpError } from "./qmp-errors.ts";

const LOAD_TIMEOUT_MS = 10_000;

/** How long a standby is waited for. */
export interface Grace {
  /**
   * Whether the VM can go on elsewhere. Where it cannot, this standby is waited for as long as its QEMU lives
   * (I5).
   */
  readonly mayGiveUp: () => boolean;
  /** What keeps the VM from running, and is waited for. */
  readonly warn: (text: string) => void;
  /** QEMU has refused to run the VM (an image is locked, say); it is told to again. */
  readonly refused: (reason: string) => void;
}

const HASTE: Grace = { mayGiveUp: () => true, warn: () => {}, refused: () => {} };
const FIRST_AGAIN_MS = 100;
const LONGEST_AGAIN_MS = 5_000;

/**
 * As QEMU does by itself after a migration: RARP for each card, and guests that can announce themselves are
 * asked to; in ms.
 */
const ANNOUNCEMENT = { initial: 50, max: 550, rounds: 5, step: 100 };

/**
 * Long before failover, to save the round trips: QEMU tells of its migration's states, so that a failed load
 * is heard of; and a load alone is announced to nobody, since it may be that the VM never runs here.
 */
export async function prepareStandby(qmp: Qmp): Promise<void> {
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
  await qmp.execute("migrate-set-parameters", { "announce-rounds": 0 });
}

/**
 * Loads the state into a QEMU that was started with `-S -incoming defer` over the RAM image. Its VM does not
 * run yet. Fails with what QEMU said; the standby is then of no more use.
 */
export async function loadStandby(qmp: Qmp, from: ComposedFrom, grace = HASTE): Promise<void> {
  const loaded = heard(qmp, "load its state", grace, (settle) =>
    qmp.on("MIGRATION", (data) => {
      const { status } = data as { status: string };
      if (status === "completed") settle();
      // It says why, and ends.
      if (status === "failed")
        void qmp.whyGone().then((how) => {
          settle(new Error(`the standby QEMU refused the state: ${how ?? "it does not say why"}`));
        });
    }),
  );
  const [ours, qemus] = socketPair();
  await qmp.passDescriptor("remus-standby", qemus);
  closeDescriptor(qemus);
  const socket = new Socket({ fd: ours, readable: false, writable: true });
  socket.on("error", loaded.fail);
  await qmp.execute("migrate-incoming", { uri: "fd:remus-standby" });
  socket.cork();
  for (const part of composeStream(from)) socket.write(part);
  socket.uncork();
  socket.end();
  try {
    await loaded.promise;
  } finally {
    socket.destroy();
  }
}

/** Has the VM run that was loaded; resolves when it does. Its MAC addresses are announced then. */
export async function runStandby(qmp: Qmp, grace = HASTE): Promise<void> {
  const running = heard(qmp, "run", grace, (settle) => qmp.on("RESUME", () => settle()));
  toldToRun(qmp, grace).catch(running.fail);
  await running.promise;
  qmp.execute("announce-self", ANNOUNCEMENT).catch(() => {});
}

/**
 * QEMU keeps the state that it was given when it refuses, and takes what it lacked when it is told again
 * (seen with 7.2: "Failed to get "write" lock").
 */
async function toldToRun(qmp: Qmp, { mayGiveUp, refused }: Grace): Promise<void> {
  for (let waitMs = FIRST_AGAIN_MS; ; waitMs = Math.min(2 * waitMs, LONGEST_AGAIN_MS)) {
    try {
      await qmp.execute("cont");
      return;
    } catch (error) {
      if (!(error instanceof QmpError) || mayGiveUp()) throw error;
      refused(error.message);
    }
    await new Promise((again) => setTimeout(again, waitMs));
  }
}

/** An event that must come in time, unless QEMU ends. */
function heard(
  qmp: Qmp,
  what: string,
  { mayGiveUp, warn }: Grace,
  listen: (settle: (error?: Error) => void) => void,
): { readonly promise: Promise<void>; readonly fail: (error: Error) => void } {
  const { promise, reject, resolve } = Promise.withResolvers<void>();
  promise.catch(() => {});
  listen((error) => (error === undefined ? resolve() : reject(error)));
  qmp.on("closed", () => {
    void qmp.whyGone().then((how) => {
      reject(
        new Error(`the standby QEMU died while it was to ${what}${how === undefined ? "" : `: ${how}`}`),
      );
    });
  });
  const timer = setInterval(() => {
    const late = `the standby QEMU did not ${what} within ${LOAD_TIMEOUT_MS} ms`;
    if (mayGiveUp()) reject(new Error(late));
    else warn(`${late}; nobody else has the VM, so it is waited for`);
  }, LOAD_TIMEOUT_MS);
  const over = () => clearInterval(timer);
  promise.then(over, over);
  return { promise, fail: reject };
}
