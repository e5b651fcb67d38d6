/**
 * Frames at a tap, seen and put in from outside of the QEMU that has it: what a planned switchover takes
 * along for the paused VM.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { createNetwork } from "../../src/lab/namespaces.ts";

const run = promisify(execFile);
const at = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);

/**
 * Inside host A: this process has the tap open as QEMU would, and what it reads there is what a guest gets.
 */
const SCRIPT = `
  import { openSync, readSync, writeSync } from "node:fs";
  import { borrowTap } from ${at("os/borrowed-tap.ts")};
  import { GuestInput } from ${at("net/guest-input.ts")};
  import { checked, libc } from ${at("os/libc.ts")};
  import { PacketSocket } from ${at("os/packet-socket.ts")};
  const tap = openSync("/dev/net/tun", 2 | 0o4000);
  const request = new Uint8Array(40);
  request.set(Buffer.from("tap0"));
  new DataView(request.buffer).setUint16(16, 0x0002 | 0x1000 | 0x4000, true);
  checked("TUNSETIFF", libc.ioctl(tap, 0x400454ca, request));
  const until = async (look) => {
    for (const end = performance.now() + 5000; performance.now() < end; ) {
      const found = look();
      if (found !== undefined) return found;
      await new Promise((again) => setTimeout(again, 2));
    }
    throw new Error("nothing came");
  };
  const frame = (payload) => Buffer.concat([Buffer.from("ffffffffffff52540072650088b5", "hex"), Buffer.from(payload.padEnd(60))]);
  const withHeader = (payload) => Buffer.concat([Buffer.alloc(10), frame(payload)]);
  const text = (bytes) => Buffer.from(bytes).subarray(24).toString().trimEnd();
  const isOurs = (bytes) => Buffer.from(bytes).subarray(22, 24).toString("hex") === "88b5";
  const readTap = () => {
    const buffer = Buffer.alloc(70_000);
    try {
      const bytes = buffer.subarray(0, readSync(tap, buffer));
      return isOurs(bytes) ? text(bytes) : undefined;
    } catch (error) {
      if (error.code === "EAGAIN") return undefined;
      throw error;
    }
  };

  // What is given to the guest comes out of the tap, and is seen as all that goes there.
  const input = new GuestInput(["tap0"], console.log);
  const other = new GuestInput(["tap0"], console.log);
  input.put({ nic: 0, frame: withHeader("for the guest") });
  console.log(await until(readTap));
  console.log(await until(() => other.take().filter((one) => isOurs(one.frame)).map((one) => text(one.frame))[0]));
  input.close();
  other.close();

  // What is written to a borrowed tap leaves the host as the guest's own output would.
  const uplink = new PacketSocket("up0");
  writeSync(borrowTap(process.pid, "tap0"), withHeader("from the guest"));
  console.log(await until(() => {
    const seen = uplink.nextOutgoing();
    return seen !== undefined && isOurs(seen) ? text(seen) : undefined;
  }));
  const without = new GuestInput(["tap0", "tap9"], console.log);
  without.put({ nic: 1, frame: withHeader("lost") });
  console.log(without.take().length);
  without.close();
  try { borrowTap(process.pid, "tap9"); } catch (error) { console.log(error.message.replace(/\\d+/, "PID")); }
`;

test("frames are given to a guest, seen on their way to it, and sent in its place", async (t) => {
  const network = await createNetwork({ lans: 1 });
  t.after(() => network.destroy());
  const [program, ...words] = network.exec("a");
  const { stdout } = await run(program!, [
    ...words,
    process.execPath,
    "--input-type=module",
    "--eval",
    SCRIPT,
  ]);
  assert.deepEqual(stdout.trim().split("\n"), [
    "for the guest",
    "for the guest",
    "from the guest",
    'tap9: there is no network device "tap9"',
    "0",
    "process PID does not have the tap tap9 open",
  ]);
});
