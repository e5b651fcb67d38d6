/** The `witness` part of a configuration file: who decides which host goes on alone. */
import { z } from "zod";
import { absolutePath } from "./fields.ts";

const url = (what: string) =>
  z.string(what).refine((text) => /^https?:\/\/[^/?#@]+\/?$/.test(text) && URL.canParse(text), what);

const tls = {
  caFile: absolutePath.exactOptional(),
  certFile: absolutePath.exactOptional(),
  keyFile: absolutePath.exactOptional(),
};

type Fields = Readonly<Record<string, unknown>>;

/** Fields that mean something only together. */
const pair = (a: string, b: string) => (value: Fields, context: z.RefinementCtx) => {
  const [present, absent] = value[a] === undefined ? [b, a] : [a, b];
  if (value[present] === undefined || value[absent] !== undefined) return;
  context.addIssue({
    code: "custom",
    path: [absent],
    message: `must be there when ${present} is; give both or neither`,
  });
};

/** Files that would be read and never used: somebody believes to be safe who is not. */
const secure = (urls: (value: Fields) => readonly unknown[]) => (value: Fields, context: z.RefinementCtx) => {
  const plain = urls(value).some((one) => typeof one === "string" && one.startsWith("http:"));
  if (!plain) return;
  for (const field of Object.keys(tls))
    if (value[field] !== undefined)
      context.addIssue({
        code: "custom",
        path: [field],
        message: "is for https:, and the witness's address begins with http:; make that https:",
      });
};

const etcd = z
  .strictObject({
    kind: z.literal("etcd"),
    endpoints: z
      .array(url("must be the client URL of an etcd member, such as https://10.0.0.3:2379"))
      .min(1, "must have one URL at least; better those of all members")
      .max(16, "must have at most 16 URLs"),
    ...tls,
    user: z.string().min(1).exactOptional(),
    passwordFile: absolutePath.exactOptional(),
    prefix: z
      .string()
      .regex(/^[\x21-\x7e]{1,200}$/, "must be 1 to 200 printable ASCII characters without blanks")
      .exactOptional(),
  })
  .superRefine(pair("certFile", "keyFile"))
  .superRefine(pair("user", "passwordFile"))
  .superRefine(secure(({ endpoints }) => (Array.isArray(endpoints) ? endpoints : [])));

const server = z
  .strictObject({
    kind: z.literal("server"),
    url: url("must be the URL of a witness, such as https://10.0.0.3:7331"),
    tokenFile: absolutePath.exactOptional(),
    ...tls,
  })
  .superRefine(pair("certFile", "keyFile"))
  .superRefine(secure(({ url: one }) => [one]));

const lockFile = z.strictObject({ kind: z.literal("lock-file"), directory: absolutePath });

const none = z.strictObject({ kind: z.literal("none") });

const kinds =
  '"etcd", "server", "lock-file", or "none", which is unsafe: with it, a cut link leaves two VMs running';

export const witness = z
  .unknown()
  .superRefine((value, context) => {
    if (typeof value !== "object" || value === null)
      context.addIssue({ code: "custom", continue: false, message: `must be a map with a kind, ${kinds}` });
  })
  .pipe(z.discriminatedUnion("kind", [etcd, server, lockFile, none], `must be ${kinds}`));

/** Goes with every claim, into keys of etcd and names of files. */
export const hostName = z
  .string()
  .regex(/^[\x21-\x7e]{1,253}$/, "must be 1 to 253 printable ASCII characters without blanks");
