// What a session is made of, and what its owner hears of it.

import type { ReplicationMessage } from "../codec/replication.ts";
import type { FrameIds } from "../codec/replication-header.ts";
import type { ClosedReason, Connection } from "./connection.ts";
import type { Liveness } from "./liveness.ts";

/** A path was lost, or is there. `reason` is a sentence. */
export interface PathEvent {
  readonly path: number;
  readonly up: boolean;
  readonly reason: string;
}

export interface SessionHandlers {
  /**
   * Called within the socket's own event, without delay. What it throws as ProtocolError (a checkpoint that
   * is not whole, say) ends the session. Messages of the stream come in order, each once; heartbeats as they
   * come.
   * @param by which connection brought it; undefined if it was no path of the session, but a try to make one
   */
  readonly onMessage: (message: ReplicationMessage, by: Connection | undefined) => void;
  /**
   * Exactly once, and nothing after it: no path is left, or this side has ended it. Within destroy() when
   * this side does.
   */
  readonly onClosed: (reason: ClosedReason) => void;
  /** Nothing was heard on any path for the detection time. Once per silence; the connections stay open. */
  readonly onSilent: (silentMs: number) => void;
  /** With several paths only: one was lost and another goes on, or it is there, be it for the first time. */
  readonly onPath?: (event: PathEvent) => void;
}

export interface SessionOptions {
  /** Its UUID. */
  readonly id: string;
  readonly ids: FrameIds;
  /** How many paths it may have. */
  readonly paths: number;
  /** Which of them the first connection is. */
  readonly path: number;
  readonly handlers: SessionHandlers;
  readonly signs: Required<Liveness>;
  /** A path is down, and this side is the one that makes it anew. */
  readonly rejoin?: (path: number) => void;
  /** At most so much may be kept, sent or not; more ends the session. */
  readonly maxKeptBytes?: number;
}
