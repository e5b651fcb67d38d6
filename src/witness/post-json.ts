/** One request with JSON in both directions, over HTTP or HTTPS. */
import { readFile } from "node:fs/promises";
import { type IncomingMessage, request as plainRequest } from "node:http";
import { request as tlsRequest } from "node:https";

/**
 * Paths of PEM files. They are read anew for each request: certificates get renewed while a guardian runs.
 */
export interface TlsFiles {
  /** Who signs the witness's certificate; left out, the system's authorities. */
  readonly caFile?: string;
  /** What this host shows of itself; both or neither. */
  readonly certFile?: string;
  readonly keyFile?: string;
}

export interface Answer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Request {
  /** Its path is that of the request. */
  readonly url: URL;
  readonly body: unknown;
  readonly tls: TlsFiles;
  /** The `Authorization` header. */
  readonly authorization?: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

const MOST_ANSWER_BYTES = 64 << 10;

/** Rejects with a sentence that names the endpoint when there is no answer, or one that is no JSON object. */
export async function postJson({
  url,
  body,
  tls,
  authorization,
  timeoutMs,
  signal,
}: Request): Promise<Answer> {
  const text = JSON.stringify(body);
  const secure = url.protocol === "https:";
  const timeout = AbortSignal.timeout(timeoutMs);
  const options = {
    method: "POST",
    // No connection is kept: questions are hours apart, and one that has died in between would cost the first
    // try.
    agent: false,
    headers: {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
      ...(authorization === undefined ? {} : { authorization }),
    },
    signal: AbortSignal.any([signal, timeout]),
    ...(secure ? await credentials(tls) : {}),
  } as const;
  try {
    return await new Promise<Answer>((resolve, reject) => {
      const request = (secure ? tlsRequest : plainRequest)(url, options);
      request.once("error", reject);
      request.once("response", (response) => {
        read(response)
          .then((bytes) => parse(response.statusCode!, bytes))
          .then(resolve, reject);
      });
      request.end(text);
    });
  } catch (error) {
    signal.throwIfAborted();
    const why = timeout.aborted ? `no answer within ${timeoutMs} ms` : reason(error as Error);
    throw new Error(`${url.origin}: ${why}`, { cause: error });
  }
}

async function credentials({ caFile, certFile, keyFile }: TlsFiles) {
  const [ca, cert, key] = await Promise.all(
    [caFile, certFile, keyFile].map((path) => path && readFile(path)),
  );
  return { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) };
}

async function read(response: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MOST_ANSWER_BYTES)
      throw new Error(`the answer has more than ${MOST_ANSWER_BYTES} bytes; is it the right port?`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function parse(status: number, bytes: Buffer): Answer {
  let body: unknown;
  const text = bytes.toString("utf8");
  try {
    body = JSON.parse(text);
  } catch {
    const begins =
      text === "" ? "it is empty" : `it begins with ${JSON.stringify(text.slice(0, 120).trim())}`;
    throw new Error(`the answer (status ${status}) is no JSON; is it the right port? ${begins}`);
  }
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new Error(`the answer (status ${status}) is no JSON object; is it the right port?`);
  return { status, body: body as Record<string, unknown> };
}

/** A connection that was tried at several addresses fails with an error that has no text of its own. */
function reason(error: Error): string {
  if (error.message !== "") return error.message;
  if (error instanceof AggregateError) return error.errors.map((one: Error) => one.message).join(", ");
  return (error as NodeJS.ErrnoException).code ?? error.name;
}
