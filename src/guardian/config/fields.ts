/** Kinds of values in a configuration file, each with its own words for what is wrong. */
import { isIP } from "node:net";
import { z } from "zod";

export const absolutePath = z
  .string("must be an absolute path; begin it with /")
  .refine((path) => path.startsWith("/"), "must be an absolute path; begin it with /")
  .refine((path) => !path.includes("\0"), "must not contain a zero byte");

/** Sockets are made in there, and the path of a unix socket is short. */
export const socketDirectory = absolutePath.refine(
  (path) => Buffer.byteLength(path) <= 80,
  "must be at most 80 bytes long, because sockets are made in it; take a shorter one",
);

/** A unix socket's path has room for 107 bytes. */
export const socketPath = absolutePath.refine(
  (path) => Buffer.byteLength(path) <= 100,
  "must be at most 100 bytes long, because a unix socket's path is short; take a shorter one",
);

/** A library is preloaded from there, and the loader knows no escapes in its list. */
export const libraryDirectory = absolutePath.refine(
  (path) => !/[\s:]/.test(path),
  "must have no space and no colon in it, because a library is loaded from it; take another",
);

export const whole = (least: number, most: number) =>
  z
    .number(`must be a whole number, ${least} to ${most}`)
    .refine(
      (n) => Number.isInteger(n) && n >= least && n <= most,
      `must be a whole number, ${least} to ${most}`,
    );

export const mac = z
  .string('must be a MAC address in quotes, such as "52:54:00:12:34:56"')
  .regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i, "must be a MAC address such as 52:54:00:12:34:56")
  .refine((text) => (Number.parseInt(text.slice(0, 2), 16) & 1) === 0 || text.length !== 17, {
    message: "is a multicast address; make its first byte even, e.g. 52:54:00:12:34:56",
  })
  .refine((text) => !/^[0:]+$/.test(text), "must not be all zeros; take e.g. 52:54:00:12:34:56");

/** Linux: at most 15 bytes, no slash, no white space, not `.` or `..`. */
export const tapName = z
  .string("must be the name of a tap device")
  .regex(
    /^(?!\.\.?$)[^\s/:,]{1,15}$/,
    "must be the name of a tap device: 1 to 15 characters, no space, /, : or comma",
  );

const ADDRESS = "must be ADDR:PORT, e.g. 10.0.0.2:7000 or [fd00::2]:7000";

/**
 * One `ADDR:PORT`, in which an IPv6 address stands in brackets, or a list of 1 to `most`, each once. Gives a
 * list.
 */
export const endpoints = (most: number) =>
  z.unknown().transform((value, context) => {
    const wrong = (message: string, path: number[] = []): void => {
      context.addIssue({ code: "custom", message, path });
    };
    const list: unknown[] = Array.isArray(value) ? value : [value];
    if (list.length === 0 || list.length > most) wrong(`must have 1 to ${most} addresses`);
    return list.flatMap((text, index) => {
      const place = Array.isArray(value) ? [index] : [];
      const parsed = typeof text === "string" ? parseEndpoint(text) : undefined;
      if (parsed === undefined) wrong(ADDRESS, place);
      const same = list.indexOf(text);
      if (same < index)
        wrong(`is also number ${same + 1} of the list; each path needs addresses of its own`, place);
      return parsed ?? [];
    });
  });

function parseEndpoint(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  const right = host !== undefined && isIP(host) === (match?.[1] === undefined ? 4 : 6);
  return right && port >= 1 && port <= 65535 ? { host, port } : undefined;
}
