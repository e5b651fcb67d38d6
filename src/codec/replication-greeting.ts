// HELLO, WELCOME and REFUSE: how two guardians meet. One JSON object each.

import {
  type DiskImage,
  type DiskSize,
  type Hello,
  MAX_DISKS,
  MAX_PATHS,
  MAX_SUSPECTS,
  PROTOCOL_VERSION,
  ProtocolError,
  type Refuse,
  type Welcome,
} from "./replication.ts";
import { JsonObject } from "./replication-reader.ts";

const IMAGE_STATES = ["blank", "unknown", "replica", "owner"] as const;

export function decodeHello(payload: Uint8Array): Hello {
  const json = JsonObject.parse("hello", payload);
  const protocol = json.integer("protocol");
  // Of a primary of another protocol only so much is needed that it can be told so.
  const ours = protocol === PROTOCOL_VERSION;
  return {
    protocol,
    host: json.text("host"),
    machine: json.flatRecord("machine"),
    ramBytes: json.integer("ramBytes"),
    intervalMs: json.positiveNumber("intervalMs"),
    session: ours ? json.uuid("session") : "",
    ...(ours ? pathOf(json) : { paths: 0, path: 0 }),
    disks: ours ? eachOnce("hello", json.objects("disks", MAX_DISKS).map(diskSize)) : [],
  };
}

function pathOf(json: JsonObject): { paths: number; path: number } {
  const paths = json.u16("paths");
  if (paths < 1 || paths > MAX_PATHS)
    throw new ProtocolError("bad-payload", "hello paths", paths, `1..${MAX_PATHS}`);
  const path = json.u16("path");
  if (path >= paths) throw new ProtocolError("bad-payload", "hello path", path, `below ${paths}`);
  return { paths, path };
}

function diskSize(json: JsonObject): DiskSize {
  return { id: json.u16("id"), bytes: json.integer("bytes") };
}

export function decodeWelcome(payload: Uint8Array): Welcome {
  const json = JsonObject.parse("welcome", payload);
  return {
    host: json.text("host"),
    generation: json.integer("generation"),
    disks: eachOnce("welcome", json.objects("disks", MAX_DISKS).map(diskImage)),
  };
}

function diskImage(json: JsonObject): DiskImage {
  return {
    id: json.u16("id"),
    state: json.oneOf("state", IMAGE_STATES),
    ...(json.has("session") ? { session: json.uuid("session") } : {}),
    ...(json.has("durableEpoch") ? { durableEpoch: json.integer("durableEpoch") } : {}),
    ...(json.has("suspects") ? { suspects: json.extents("suspects", MAX_SUSPECTS) } : {}),
  };
}

function eachOnce<T extends { readonly id: number }>(what: string, disks: T[]): T[] {
  const seen = new Set<number>();
  for (const { id } of disks) {
    if (seen.has(id)) throw new ProtocolError("bad-payload", `${what} disk id`, id, "each id once");
    seen.add(id);
  }
  return disks;
}

export function decodeRefuse(payload: Uint8Array): Refuse {
  const json = JsonObject.parse("refuse", payload);
  return { code: json.text("code"), message: json.text("message") };
}
