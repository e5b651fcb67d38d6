// The primary's way to its backup: TCP, HELLO, WELCOME; and then a JOIN for each further path, and again when
// one is lost.

import type { Hello, Welcome } from "../codec/replication.ts";
import { encodeHello, encodeJoin } from "../codec/replication-encode.ts";
import type { FrameIds } from "../codec/replication-header.ts";
import { dial } from "./dial.ts";
import { shakeHands } from "./handshake.ts";
import { type Address, LinkError } from "./link-error.ts";
import { checkedSigns, type Liveness } from "./liveness.ts";
import { Session, type SessionHandlers } from "./session.ts";

export interface ConnectOptions extends Liveness {
  /** Of the backup, one for each path. The session begins over the first that answers. */
  readonly addresses: readonly Address[];
  /** Of this host, one for each path: the backup knows its primary by them. */
  readonly from?: readonly Address[];
  readonly ids: FrameIds;
  readonly hello: Omit<Hello, "path" | "paths">;
  /** They hear of everything after WELCOME. Before it, errors reject the promise. */
  readonly handlers: SessionHandlers;
  /** For TCP and WELCOME together. */
  readonly timeoutMs?: number;
}

export interface BackupLink {
  readonly session: Session;
  readonly welcome: Welcome;
}

/**
 * Connects to the backup's guardian and is welcomed, or rejects with a LinkError (RangeError: wrong options).
 */
export async function connect(options: ConnectOptions): Promise<BackupLink> {
  const { addresses, handlers, ids, timeoutMs = 5000 } = options;
  const signs = checkedSigns(options);
  const sinceMs = performance.now();
  const { socket, path } = await dial(addresses, timeoutMs, options.from);
  const hello = { ...options.hello, paths: addresses.length, path };
  const joiner = new Joiner(addresses, ids, options.from ?? []);
  const rejoin = (lost: number): void => joiner.join(lost);
  const to = { socket, address: addresses[path]! };
  return await shakeHands(to, {
    ids,
    frame: encodeHello(ids, hello),
    expects: "welcome",
    timeoutMs,
    sinceMs,
    onAgreed: (connection, { welcome }) => {
      const { session: id, paths } = hello;
      const session = new Session(connection, { id, ids, paths, path, handlers, signs, rejoin });
      joiner.begin(session);
      return { session, welcome };
    },
  });
}

/** One try to reach the backup on a path, and the time from one that failed to the next. */
const TRY_MS = 1_000;
const AGAIN_MS = 250;
/** The same after a refusal, which somebody must do something about. */
const REFUSED_AGAIN_MS = 10_000;

/** Makes the paths of a session that are not there, again and again, for as long as it lives. */
class Joiner {
  readonly #addresses: readonly Address[];
  readonly #ids: FrameIds;
  readonly #from: readonly Address[];
  readonly #waiting = new Map<number, NodeJS.Timeout | undefined>();
  #session: Session | undefined;

  constructor(addresses: readonly Address[], ids: FrameIds, from: readonly Address[]) {
    this.#addresses = addresses;
    this.#from = from;
    this.#ids = ids;
  }

  begin(session: Session): void {
    this.#session = session;
    session.atEnd(() => {
      for (const timer of this.#waiting.values()) clearTimeout(timer);
    });
    for (let path = 0; path < this.#addresses.length; path++)
      if (session.paths[path]?.up === false) this.join(path);
  }

  join(path: number): void {
    if (this.#session === undefined || this.#session.closed !== undefined || this.#waiting.has(path)) return;
    this.#waiting.set(path, undefined);
    void this.#try(path, this.#session);
  }

  async #try(path: number, session: Session): Promise<void> {
    const { id } = session;
    const address = this.#addresses[path]!;
    try {
      const { socket } = await dial([address], TRY_MS, this.#from.slice(path, path + 1));
      await shakeHands(
        { socket, address },
        {
          ids: this.#ids,
          frame: encodeJoin(this.#ids, { session: id, path }),
          expects: "joined",
          timeoutMs: TRY_MS,
          sinceMs: performance.now(),
          onAgreed: (connection) => {
            this.#waiting.delete(path);
            session.join(path, connection);
          },
        },
      );
    } catch (error) {
      if (session.closed === undefined) this.#failed(path, session, error);
    }
  }

  #failed(path: number, session: Session, error: unknown): void {
    if (!(error instanceof LinkError)) throw error;
    const { code, message, takeover } = error;
    // The one who was called runs the VM: nothing that the session's other paths say can matter any more
    // (I3).
    if (takeover !== undefined) session.hearLastWord(takeover);
    const refused = code === "refused";
    session.couldNotJoin(path, message, refused);
    const again = setTimeout(() => void this.#try(path, session), refused ? REFUSED_AGAIN_MS : AGAIN_MS);
    this.#waiting.set(path, again);
  }
}
