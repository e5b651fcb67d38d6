// Fields out of a payload, binary or JSON. What does not fit is an error that names message and field.

import { ProtocolError } from "./replication.ts";
import { UUID } from "./replication-header.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeText(field: string, bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new ProtocolError("bad-payload", field, `${bytes.byteLength} bytes`, "UTF-8", { cause });
  }
}

/** Reads fields one behind the other; a field that does not fit is an error that names it. */
export class Reader {
  readonly #what: string;
  readonly #payload: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(what: string, payload: Uint8Array) {
    this.#what = what;
    this.#payload = payload;
    this.#view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  }

  #advance(field: string, bytes: number): number {
    const start = this.#at;
    const left = this.#payload.byteLength - start;
    if (bytes > left) {
      throw new ProtocolError(
        "bad-payload",
        `${this.#what} ${field}`,
        `${bytes} bytes`,
        `at most the ${left} left`,
      );
    }
    this.#at = start + bytes;
    return start;
  }

  u16(field: string): number {
    return this.#view.getUint16(this.#advance(field, 2));
  }

  u32(field: string): number {
    return this.#view.getUint32(this.#advance(field, 4));
  }

  u64(field: string): number {
    const at = this.#advance(field, 8);
    const value = this.#view.getUint32(at) * 2 ** 32 + this.#view.getUint32(at + 4);
    if (Number.isSafeInteger(value)) return value;
    throw new ProtocolError("bad-payload", `${this.#what} ${field}`, value, "below 2^53");
  }

  bytes(field: string, count: number): Uint8Array {
    const at = this.#advance(field, count);
    return this.#payload.subarray(at, at + count);
  }

  rest(): Uint8Array {
    return this.bytes("rest", this.#payload.byteLength - this.#at);
  }

  shortText(field: string): string {
    const count = this.#view.getUint8(this.#advance(`${field} length`, 1));
    if (count === 0) throw new ProtocolError("bad-payload", `${this.#what} ${field} length`, 0, "1..255");
    return decodeText(`${this.#what} ${field}`, this.bytes(field, count));
  }

  end(): void {
    const left = this.#payload.byteLength - this.#at;
    if (left > 0)
      throw new ProtocolError("bad-payload", `${this.#what} payload`, `${left} bytes too long`, "its end");
  }
}

/** The fields of a JSON object. Fields that are not asked for are ignored: a later version may add some. */
export class JsonObject {
  readonly #what: string;
  readonly #fields: Record<string, unknown>;

  /** @param what names the object in errors */
  constructor(what: string, fields: Record<string, unknown>) {
    this.#what = what;
    this.#fields = fields;
  }

  /** @throws ProtocolError if the payload is no JSON object */
  static parse(what: string, payload: Uint8Array): JsonObject {
    const text = decodeText(what, payload);
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw new ProtocolError("bad-payload", what, text, "JSON", { cause });
    }
    if (!isRecord(value)) throw new ProtocolError("bad-payload", what, text, "a JSON object");
    return new JsonObject(what, value);
  }

  has(name: string): boolean {
    return this.#field(name) !== undefined;
  }

  #field(name: string): unknown {
    return Object.hasOwn(this.#fields, name) ? this.#fields[name] : undefined;
  }

  #wrong(name: string, expected: string): ProtocolError {
    const value = this.#field(name);
    const text = value === undefined ? "missing" : JSON.stringify(value);
    return new ProtocolError("bad-payload", `${this.#what} ${name}`, text, expected);
  }

  text(name: string): string {
    const value = this.#field(name);
    if (typeof value === "string") return value;
    throw this.#wrong(name, "a string");
  }

  flag(name: string): boolean {
    const value = this.#field(name);
    if (typeof value === "boolean") return value;
    throw this.#wrong(name, "true or false");
  }

  integer(name: string): number {
    const value = this.#field(name);
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
    throw this.#wrong(name, "an integer from 0 to 2^53 - 1");
  }

  u16(name: string): number {
    const value = this.integer(name);
    if (value <= 0xffff) return value;
    throw this.#wrong(name, "an integer from 0 to 65535");
  }

  uuid(name: string): string {
    const value = this.#field(name);
    if (typeof value === "string" && UUID.test(value)) return value;
    throw this.#wrong(name, "a UUID");
  }

  oneOf<T extends string>(name: string, known: readonly T[]): T {
    const value = this.#field(name);
    for (const one of known) if (value === one) return one;
    throw this.#wrong(name, `one of ${known.join(", ")}`);
  }

  /** An array of at most `most` objects. */
  objects(name: string, most: number): JsonObject[] {
    return this.#array(name, most, "objects").map((item, index) => {
      if (!isRecord(item)) throw this.#wrong(name, `an array of objects (${index} is none)`);
      return new JsonObject(`${this.#what} ${name}[${index}]`, item);
    });
  }

  /** An array of at most `most` pairs of offset and length, in bytes, that end below 2^53. */
  extents(name: string, most: number): [offset: number, length: number][] {
    return this.#array(name, most, "[offset, length] pairs").map((item, index) => {
      const fits = Array.isArray(item) && item.length === 2 && isExtent(item[0], item[1]);
      if (!fits) throw this.#wrong(name, `an array of [offset, length] pairs (${index} is none)`);
      return [item[0], item[1]];
    });
  }

  #array(name: string, most: number, of: string): unknown[] {
    const value = this.#field(name);
    if (!Array.isArray(value)) throw this.#wrong(name, `an array of ${of}`);
    if (value.length > most) {
      const expected = `at most ${most} ${of}`;
      throw new ProtocolError("bad-payload", `${this.#what} ${name} length`, value.length, expected);
    }
    return value;
  }

  positiveNumber(name: string): number {
    const value = this.#field(name);
    if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
    throw this.#wrong(name, "a number above 0");
  }

  flatRecord(name: string): Record<string, string | number> {
    const value = this.#field(name);
    if (!isRecord(value)) throw this.#wrong(name, "an object of strings and numbers");
    const entries: [string, string | number][] = [];
    for (const [key, item] of Object.entries(value)) {
      const fits = typeof item === "string" || (typeof item === "number" && Number.isFinite(item));
      if (!fits) throw this.#wrong(name, `an object of strings and numbers (${key} is neither)`);
      entries.push([key, item]);
    }
    // fromEntries makes own properties whatever the key, "__proto__" too.
    return Object.fromEntries(entries);
  }
}

function isExtent(offset: unknown, length: unknown): boolean {
  const whole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  return whole(offset) && whole(length) && length > 0 && Number.isSafeInteger(offset + length);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
