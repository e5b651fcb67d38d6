/**
 * The lines of a witness's file: `CRC32 JSON`, the checksum of the JSON text in 8 hexadecimal digits. The
 * first says what the file is; each other one holds the claims that were put on stable storage together.
 * Pure.
 */
import { crc32 } from "node:zlib";
import type { Claim } from "../core/arbiter.ts";
import { asClaim, isVmId } from "./register.ts";

export interface ClaimOfVm extends Claim {
  readonly vm: string;
}

export const headLine = line({ remusWitness: 1 });

export function claimLine(claims: readonly ClaimOfVm[]): Buffer {
  return line(claims.map(({ at, generation, host, vm }) => ({ vm, generation, host, at })));
}

export interface Contents {
  readonly claims: readonly ClaimOfVm[];
  /**
   * What is whole. Behind it is at most a line whose writing was cut off by a crash, and which nobody has had
   * an answer from.
   */
  readonly wholeBytes: number;
}

/** @throws Error with a sentence when the file is none of ours, or has been damaged */
export function parseLines(bytes: Buffer, path: string): Contents {
  if (!bytes.subarray(0, headLine.length).equals(headLine))
    throw new Error(`${path} does not begin as a witness's file does; ${TODO}`);
  const claims: ClaimOfVm[] = [];
  let at = headLine.length;
  for (let number = 2; at < bytes.length; number++) {
    const newline = bytes.indexOf(0x0a, at);
    if (newline === -1) break;
    const text = bytes.subarray(at, newline);
    const value = parseLine(text);
    if (value === undefined) {
      // A file system may have made the file longer before it wrote what is in it. Text of ours has no zero
      // bytes.
      if (newline === bytes.length - 1 && text.includes(0)) break;
      throw new Error(`${path} is damaged in line ${number}: the checksum is wrong; ${TODO}`);
    }
    if (!Array.isArray(value))
      throw new Error(`${path} has something else than claims in line ${number}; ${TODO}`);
    for (const one of value) claims.push(asClaimOfVm(one, `line ${number} of ${path}`));
    at = newline + 1;
  }
  return { claims, wholeBytes: at };
}

/** The one claim in a file of one line. @throws Error with a sentence when it holds something else */
export function parseClaimLine(bytes: Buffer, path: string): ClaimOfVm {
  const value = bytes.at(-1) === 0x0a ? parseLine(bytes.subarray(0, -1)) : undefined;
  if (!Array.isArray(value) || value.length !== 1)
    throw new Error(`${path} is damaged: it must hold one claim`);
  return asClaimOfVm(value[0], path);
}

const TODO = "put back the file that belongs there: a witness that has forgotten claims lets a VM run twice";

/** @throws TypeError naming `source` */
function asClaimOfVm(value: unknown, source: string): ClaimOfVm {
  const claim = asClaim(value, source);
  const { vm } = value as { vm?: unknown };
  if (!isVmId(vm)) throw new TypeError(`${source} holds a claim of no VM`);
  return { vm, ...claim };
}

function line(value: unknown): Buffer {
  const text = JSON.stringify(value);
  return Buffer.from(`${checksum(Buffer.from(text))} ${text}\n`);
}

/** Undefined if the checksum is wrong. */
function parseLine(bytes: Buffer): unknown {
  const json = bytes.subarray(9);
  if (bytes.toString("latin1", 0, 9) !== `${checksum(json)} `) return undefined;
  return JSON.parse(json.toString("utf8"));
}

function checksum(bytes: Buffer): string {
  return crc32(bytes).toString(16).padStart(8, "0");
}
