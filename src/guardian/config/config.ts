/**
 * The guardian's configuration file: YAML 1.2, and so JSON too. docs/config.md tells every field to the user.
 * A file with a mistake is refused with every mistake in it: file:line:column, the field, what is wrong, what
 * to do.
 */
import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { isMap, isNode, isPair, LineCounter, parseDocument } from "yaml";
import { z } from "zod";
import { MAX_PATHS } from "../../codec/replication.ts";
import { absolutePath, endpoints, libraryDirectory, socketDirectory, whole } from "./fields.ts";
import { vm } from "./vm.ts";
import { hostName, witness } from "./witness.ts";

const timing = z
  .strictObject({
    intervalMs: whole(1, 10_000).default(25),
    detectionMs: whole(50, 60_000).default(200),
    heartbeatMs: whole(1, 20_000).default(25),
    syncMiBps: whole(1, 1 << 20).exactOptional(),
    witnessMs: whole(100, 3_600_000).default(30_000),
    retryMs: whole(100, 3_600_000).default(2_000),
    hungMs: whole(500, 3_600_000).default(5_000),
    shutdownMs: whole(1_000, 3_600_000).default(60_000),
  })
  .superRefine(({ heartbeatMs, detectionMs }, context) => {
    if (heartbeatMs * 3 > detectionMs)
      context.addIssue({
        code: "custom",
        path: ["heartbeatMs"],
        message: `must be at most a third of detectionMs (${detectionMs}); make it ${Math.floor(detectionMs / 3)} or less`,
      });
  })
  .prefault({});

const limits = z
  .strictObject({
    stagingMiB: whole(1, 1 << 20).default(64),
    maxInFlight: whole(1, 1024).default(8),
    heldMiB: whole(1, 1 << 20).default(64),
    diskMiB: whole(8, 1 << 20).default(64),
    commitMiB: whole(1, 1 << 20).default(256),
    checkpointMiB: whole(1, 1 << 24).exactOptional(),
  })
  .prefault({});

const lab = z
  .strictObject({
    ramFile: absolutePath.exactOptional(),
    bindLifetimes: z.boolean().default(true),
    serialLog: absolutePath.exactOptional(),
  })
  .prefault({});

const common = {
  vm,
  runDirectory: socketDirectory,
  imageDirectory: absolutePath.default("/dev/shm/remus"),
  cacheDirectory: libraryDirectory.default("/var/cache/remus"),
  stateDirectory: absolutePath.default("/var/lib/remus"),
  timing,
  limits,
  host: hostName.default(() => hostname()),
  witness,
  protect: z.enum(["on-order", "at-start"], 'must be "on-order" or "at-start"').default("on-order"),
  accelerator: z.enum(["auto", "kvm", "tcg"], 'must be "auto", "kvm" or "tcg"').default("auto"),
  lab,
};

const paths = endpoints(MAX_PATHS);

interface Place {
  readonly host: string;
  readonly port: number;
}

/** A call to oneself is answered by nobody, or by the wrong one. */
const elsewhere = (
  { listen = [], peer = [] }: { readonly listen?: readonly Place[]; readonly peer?: readonly Place[] },
  context: z.RefinementCtx,
): void => {
  const wrong = (index: number, message: string) =>
    context.addIssue({ code: "custom", path: ["peer", index], message });
  for (const [index, { host, port }] of peer.entries()) {
    if (/^[0:.]+$/.test(host)) wrong(index, "is no host's address; name the other host's own");
    else if (listen.some((own) => own.host === host && own.port === port))
      wrong(index, "is also an address of listen, which are this host's own; name the other host's");
  }
};

/** Roles change, and with them the direction in which a path is made. */
const asMany = (
  { listen, peer }: { readonly listen?: readonly unknown[]; readonly peer?: readonly unknown[] },
  context: z.RefinementCtx,
): void => {
  if (listen === undefined || peer === undefined || listen.length === peer.length) return;
  const many = (count: number) => (count === 1 ? "one address" : `${count} addresses`);
  context.addIssue({
    code: "custom",
    path: ["listen"],
    message: `must have as many addresses as peer: peer has ${many(peer.length)} and listen ${many(listen.length)}. Each peer leads to the other host's listen at the same place of its list`,
  });
};

const schema = z.discriminatedUnion(
  "role",
  [
    z.strictObject({
      role: z.literal("primary"),
      ...common,
      replication: z
        .strictObject({ peer: paths, listen: paths.exactOptional() })
        .superRefine(asMany)
        .superRefine(elsewhere),
    }),
    z.strictObject({
      role: z.literal("backup"),
      ...common,
      replication: z
        .strictObject({ listen: paths, peer: paths.exactOptional() })
        .superRefine(asMany)
        .superRefine(elsewhere),
    }),
  ],
  'must be "primary" or "backup"',
);

/**
 * A union over `role`: a primary has `replication.peer`, a backup `replication.listen`, each a list of
 * `{host, port}`, one for each path.
 */
export type GuardianConfig = z.output<typeof schema>;
export type PrimaryConfig = GuardianConfig & { readonly role: "primary" };
export type BackupConfig = GuardianConfig & { readonly role: "backup" };

/**
 * The same guardian in this role; undefined if its file lacks the address that the role needs. A primary
 * needs none to run the VM: without a peer, of which it then has an empty list, it cannot protect it.
 */
export function inRole(role: GuardianConfig["role"], config: GuardianConfig): GuardianConfig | undefined {
  const { listen, peer } = config.replication;
  if (role === config.role) return config;
  if (listen === undefined) return undefined;
  if (role === "backup")
    return { ...config, role, replication: { listen, ...(peer === undefined ? {} : { peer }) } };
  return { ...config, role, replication: { listen, peer: peer ?? [] } };
}

/** A configuration file that cannot be used. The message has one line per mistake. */
export class ConfigError extends Error {
  constructor(lines: readonly string[], options?: ErrorOptions) {
    super(lines.join("\n"), options);
    this.name = "ConfigError";
  }
}

/** Reads and checks the file at `path`. @throws ConfigError */
export async function readConfig(path: string): Promise<GuardianConfig> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    throw new ConfigError([`${path}: cannot be read: ${(cause as Error).message}`], { cause });
  }
  return parseConfig(decoded(bytes, path), path);
}

/** A wrong character in a path would be another path. */
function decoded(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ConfigError([`${path}: is not text in UTF-8; convert it: iconv -f latin1 -t utf-8`], { cause });
  }
}

/** The same, of a text already read. `file` is for messages only. */
export function parseConfig(text: string, file: string): GuardianConfig {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  const broken = [...document.errors, ...document.warnings];
  if (broken.length > 0)
    throw new ConfigError(
      broken.map(({ code, message, pos }) => {
        const words =
          code === "MULTIPLE_DOCS" ? "it ends at this line (---); one file is of one VM" : message;
        return `${at(pos[0])}: not good YAML: ${words}`;
      }),
    );
  let data: unknown;
  try {
    data = document.toJS();
  } catch (cause) {
    // An alias of nothing, or one that would grow without end.
    throw new ConfigError([`${file}: not good YAML: ${(cause as Error).message}`], { cause });
  }
  const result = schema.safeParse(data);
  if (result.success) return result.data;
  throw new ConfigError(
    result.error.issues
      .flatMap((issue) => mistakes(issue, data))
      .map(({ path, message }) => ({ offset: offsetOf(document.contents, path), path, message }))
      .sort((a, b) => a.offset - b.offset)
      .map(({ offset, path, message }) => `${at(offset)}: ${showPath(path)} ${message}`),
  );
}

type Path = readonly PropertyKey[];

interface Mistake {
  readonly path: Path;
  readonly message: string;
}

/** Our own words for what zod says in its own. */
function mistakes(issue: z.core.$ZodIssue, data: unknown): Mistake[] {
  const { path } = issue;
  if (issue.code === "unrecognized_keys")
    return issue.keys.map((key) => ({
      path: [...path, key],
      message: "is not a known field; remove it, or mend its spelling",
    }));
  const ownWords =
    /^(must|is) /.test(issue.message) && !(issue.code === "invalid_type" && issue.expected === "object");
  const message = issue.code === "invalid_type" && !ownWords ? noun(issue.expected) : issue.message;
  return [{ path, message: valueAt(data, path) === undefined ? `is missing; it ${message}` : message }];
}

function valueAt(data: unknown, path: Path): unknown {
  return path.reduce((value, key) => (value as Record<PropertyKey, unknown> | undefined)?.[key], data);
}

function noun(expected: string): string {
  const words: Record<string, string> = {
    object: "a map of fields",
    array: "a list",
    string: "a text; put it in quotes",
    boolean: "true or false",
  };
  return `must be ${words[expected] ?? expected}`;
}

/** `vm.nics[0].mac`; the whole file has no name of its own. */
function showPath(path: Path): string {
  const text = path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  return text === "" ? "the configuration" : text.replace(/^\./, "");
}

/**
 * Where in the text the field is: its key if it has one; for a missing field, the map that it should be in.
 */
function offsetOf(contents: unknown, path: Path): number {
  let node = contents;
  let offset = startOf(node) ?? 0;
  for (const key of path) {
    if (isMap(node)) {
      const pair = node.items.find((item) => isPair(item) && String(item.key) === String(key));
      if (pair === undefined) return offset;
      offset = startOf(pair.key) ?? offset;
      node = pair.value;
    } else {
      node = isNode(node) && "items" in node ? (node.items as unknown[])[Number(key)] : undefined;
      offset = startOf(node) ?? offset;
    }
  }
  return offset;
}

function startOf(node: unknown): number | undefined {
  return isNode(node) ? (node.range?.[0] ?? undefined) : undefined;
}
