/**
 * The lab's client of an echo guest (guest/echo.S), a program of its own, to be run inside the client's
 * namespace: one request outstanding at a time, and sent again every 200 ms until it is answered, as TCP
 * would at first.
 *
 *   node src/lab/echo-client.ts --device lan0 --mac 52:54:00:72:65:00 --until-stdin-closes
 *
 * Standard output is that of client.ts. A connection is what began with the first answer. It is one loop over
 * system calls, with no event loop: what it measures is the network and the guest.
 */
import { writeSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { parseArgs } from "node:util";
import { PacketSocket } from "../os/packet-socket.ts";
import { readable } from "../os/socket.ts";
import { type ClientProgress, ClientReport, type ClientSummary, nowNs } from "./client-report.ts";
import { EchoAudit } from "./echo-audit.ts";
import { echoType } from "./echo-guest.ts";

const MS = 1_000_000n;
const PROGRESS_NS = 200n * MS;
const AGAIN_NS = 200n * MS;
/** From one request to the next, at least. */
const PACE_NS = 1n * MS;
/** At the end, how long an answer on its way is waited for. */
const LAST_ANSWER_NS = 1000n * MS;
const STDIN = 0;
const STDOUT = 1;
/**
 * Frames have the kernel's virtio-net header before them (packet-socket.ts), then addresses of 6 bytes each,
 * the type, and our numbers.
 */
const HEADER = 10;
const [FROM, TYPE, NUMBER, BEFORE] = [HEADER + 6, HEADER + 12, HEADER + 14, HEADER + 18];
const FRAME_BYTES = 60;

class EchoClient {
  private readonly socket: PacketSocket;
  private readonly audit = new EchoAudit();
  private readonly report = new ClientReport(this.audit);
  private readonly request = Buffer.alloc(HEADER + FRAME_BYTES);
  private number = 0;
  private waiting = false;
  private firstSentNs = 0n;
  private sentNs = 0n;

  constructor(device: string, ownMac: string, guestMac: string) {
    this.socket = new PacketSocket(device);
    this.request.set(macBytes(guestMac), HEADER);
    this.request.set(macBytes(ownMac), FROM);
    this.request.writeUInt16BE(echoType, TYPE);
  }

  /** Until standard input ends, and the last answer has come, or will not. */
  run(): ClientSummary {
    let progressNs = nowNs() + PROGRESS_NS;
    let lastNs: bigint | undefined;
    for (;;) {
      const now = nowNs();
      if (lastNs === undefined && readable(STDIN, 0)) lastNs = now + LAST_ANSWER_NS;
      if (lastNs !== undefined && (!this.waiting || now >= lastNs)) break;
      if (now >= progressNs) {
        print(this.report.progress());
        progressNs = now + PROGRESS_NS;
      }
      if (this.waiting && now >= this.sentNs + AGAIN_NS) this.send(now);
      else if (!this.waiting && now >= this.sentNs + PACE_NS) this.ask(now);
      this.socket.wait(this.waiting ? 10 : 1);
      for (let frame = this.socket.nextIncoming(); frame; frame = this.socket.nextIncoming())
        this.take(Buffer.from(frame.buffer, frame.byteOffset, frame.length));
    }
    this.socket.close();
    return this.report.summary();
  }

  private ask(now: bigint): void {
    this.number += 1;
    this.waiting = true;
    this.firstSentNs = now;
    this.report.requests += 1;
    this.request.writeUInt32LE(this.number, NUMBER);
    this.send(now);
  }

  private send(now: bigint): void {
    this.sentNs = now;
    this.socket.send(this.request);
  }

  /** What answers an earlier request, which was sent twice, is no news. */
  private take(frame: Buffer): void {
    if (frame.length < BEFORE + 4 || frame.readUInt16BE(TYPE) !== echoType) return;
    if (!this.waiting || frame.readUInt32LE(NUMBER) !== this.number) return;
    this.waiting = false;
    this.report.connected = true;
    this.report.connections = 1;
    this.report.answered(this.firstSentNs);
    this.audit.answer(this.number, frame.readUInt32LE(BEFORE));
  }
}

function print(line: ClientProgress | ClientSummary): void {
  writeSync(STDOUT, `${JSON.stringify(line)}\n`);
}

function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}

function fail(why: string): never {
  process.stderr.write(`echo client: ${why}\n`);
  process.exit(1);
}

const { values } = parseArgs({
  options: {
    device: { type: "string" },
    mac: { type: "string" },
    "until-stdin-closes": { type: "boolean", default: false },
  },
});
const { device, mac } = values;
if (device === undefined || mac === undefined || !values["until-stdin-closes"])
  fail("give --device, --mac (the guest's address there) and --until-stdin-closes");
const own = networkInterfaces()[device]?.[0]?.mac;
if (own === undefined) fail(`the device ${device} is not there, or has no address`);
print(new EchoClient(device, own, mac).run());
