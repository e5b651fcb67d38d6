// A proxy that loses answers: the request is passed on and carried out, and the connection is cut in place of
// the answer.
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import type { TestContext } from "node:test";
import { postJson, type TlsFiles } from "../../src/witness/post-json.ts";

export interface LosingProxy {
  readonly url: string;
  /** What was lost: the bodies of the answers. */
  readonly lost: readonly Readonly<Record<string, unknown>>[];
  /** Loses that many answers from now on. */
  lose(answers: number): void;
}

export async function losingProxy(t: TestContext, behind: string, tls: TlsFiles = {}): Promise<LosingProxy> {
  let left = 0;
  const lost: Readonly<Record<string, unknown>>[] = [];
  const server = createServer(async (request, response) => {
    const { status, body } = await postJson({
      url: new URL(request.url!, behind),
      body: await json(request),
      tls,
      timeoutMs: 10_000,
      // Whoever asked may be gone: what it asked for is carried out all the same.
      signal: new AbortController().signal,
    });
    if (left === 0) {
      response.writeHead(status).end(JSON.stringify(body));
      return;
    }
    left--;
    lost.push(body);
    response.destroy();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const { port } = server.address() as AddressInfo;
  const lose = (answers: number) => {
    left = answers;
  };
  return { url: `http://127.0.0.1:${port}`, lost, lose };
}
